#include "metrics/stats_file.h"

#include <ATen/ATen.h>

#include <map>
#include <vector>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/formats/npy.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/zip.h"
#include "flowmap/tensor_io.h"

namespace flowmap::metrics {
namespace {

using Arrays = std::map<std::string, HostTensor>;

void refuse_pickle(const std::filesystem::path& path) {
  FM_CHECK_USAGE(!ends_with_ignoring_case(path.string(), ".pkl"), path.string(),
                 ": pickled statistics are not read here; save mu and sigma with "
                 "numpy.savez, or make statistics anew with `flowmap fid ref`");
}

at::Tensor statistics_array(const Arrays& arrays, const std::string& path,
                            const char* key) {
  const auto found = arrays.find(key);
  if (found == arrays.end()) {
    std::vector<std::string> names;
    for (const auto& [name, array] : arrays) names.push_back(name);
    throw DataError(path, {}, std::string("an array '") + key + "' (feature statistics)",
                    names.empty() ? "no arrays" : "only " + join(names, ", "));
  }
  return to_tensor(found->second).to(at::kDouble);
}

std::string statistics_text(const Arrays& arrays, const char* key) {
  const auto found = arrays.find(key);
  if (found == arrays.end() || found->second.dtype != DType::U8) return "";
  const auto& bytes = found->second.bytes;
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

void write_statistics(const std::filesystem::path& path, const FeatureSet& set,
                      const FeatureSource& source) {
  write_npz(path,
            {{"mu", to_host(set.mean)},
             {"sigma", to_host(set.covariance())},
             {"num_images", to_host(at::scalar_tensor(set.count, at::kLong))}},
            {{"detector", source.detector},
             {"detector_sha256", source.checksum},
             {"mode", source.mode},
             {"resolution", source.resolution},
             {"tool", "flowmap"}});
}

Statistics read_statistics(const std::filesystem::path& path) {
  refuse_pickle(path);
  const std::string name = path.string();
  const Arrays arrays = read_npz(path);
  Statistics result;
  const at::Tensor mu = statistics_array(arrays, name, "mu");
  const at::Tensor sigma = statistics_array(arrays, name, "sigma");
  if (mu.dim() != 1 || mu.size(0) == 0)
    throw DataError(name, {}, "mu of shape [d]", shape_text(mu.sizes()));
  const int64_t d = mu.size(0);
  if (sigma.dim() != 2 || sigma.size(0) != d || sigma.size(1) != d)
    throw DataError(name, {}, "sigma of shape [" + std::to_string(d) + ", " +
                    std::to_string(d) + "] to go with mu", shape_text(sigma.sizes()));
  for (const auto& [key, array] : {std::pair{"mu", mu}, {"sigma", sigma}})
    if (!at::isfinite(array).all().item<bool>())
      throw DataError(name, {}, std::string("finite values in ") + key,
                      "not-a-number or infinity");
  const double skew = (sigma - sigma.t()).abs().max().item<double>();
  const double size = sigma.diagonal().abs().max().item<double>();
  if (skew > 1e-5 * size)
    throw DataError(name, {}, "a symmetric sigma",
                    format("entries that differ by %g from their mirror image", skew));
  result.set.count = 2;
  const auto count = arrays.find("num_images");
  if (count != arrays.end() && count->second.numel() == 1) {
    result.num_images =
        to_tensor(count->second).reshape({}).to(at::kLong).item<int64_t>();
    if (*result.num_images < 2)
      throw DataError(name, {}, "num_images of 2 or more",
                      std::to_string(*result.num_images));
    result.set.count = *result.num_images;
  }
  result.set.mean = mu;
  result.set.scatter =
      (sigma + sigma.t()) * (0.5 * static_cast<double>(result.set.count - 1));
  result.source = {statistics_text(arrays, "detector"),
                   statistics_text(arrays, "detector_sha256"),
                   statistics_text(arrays, "mode"),
                   statistics_text(arrays, "resolution")};
  return result;
}

bool is_statistics_file(const std::filesystem::path& path) {
  if (!ends_with_ignoring_case(path.string(), ".npz")) return false;
  const ZipReader zip(path);
  return zip.find("mu.npy") >= 0 || zip.find("sigma.npy") >= 0;
}

std::vector<std::string> check_comparable(const Statistics& statistics,
                                          const std::string& path,
                                          const FeatureSource& ours, int64_t dimensions,
                                          bool force) {
  FM_CHECK_USAGE(statistics.set.mean.size(0) == dimensions, path, ": statistics of ",
                 statistics.set.mean.size(0), " dimensions, but detector ", ours.detector,
                 " gives ", dimensions, "; make them anew with `flowmap fid ref --data "
                 "DATA --dest ", path, "`");
  std::vector<std::string> warnings;
  const FeatureSource& theirs = statistics.source;
  struct Fact {
    const char* name;
    const std::string &theirs, &ours;
  };
  for (const Fact& fact : {Fact{"detector", theirs.detector, ours.detector},
                           {"detector_sha256", theirs.checksum, ours.checksum},
                           {"mode", theirs.mode, ours.mode},
                           {"resolution", theirs.resolution, ours.resolution}}) {
    if (fact.theirs == fact.ours) continue;
    if (fact.theirs.empty()) {
      warnings.push_back(path + " does not state its " + fact.name + " (taken as " +
                         fact.ours + ")");
      continue;
    }
    const std::string difference = std::string(fact.name) + " of " + path + " is '" +
                                   fact.theirs + "', of these samples '" + fact.ours +
                                   "'";
    FM_CHECK_USAGE(force, difference, ": the distance would mean nothing; make the "
                   "statistics anew with `flowmap fid ref`, or insist with --force");
    warnings.push_back(difference + " (--force)");
  }
  return warnings;
}

}  // namespace flowmap::metrics
