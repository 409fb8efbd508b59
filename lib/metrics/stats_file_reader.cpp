#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <utility>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/npy.h"
#include "flowmap/formats/pickle.h"
#include "flowmap/formats/torch_file.h"
#include "flowmap/tensor_io.h"
#include "metrics/stats_file.h"
#include "metrics/stats_file_names.h"

namespace flowmap::metrics {
namespace {

using NamedArrays = std::map<std::string, HostTensor>;
constexpr int64_t kRowsAtOnce = 4096;

[[noreturn]] void missing_statistics(const NamedArrays& arrays, const std::string& path,
                                     const std::string& key) {
  std::vector<std::string> names;
  for (const auto& item : arrays) names.push_back(item.first);
  throw DataError(path, {}, "an array '" + key + "' (feature statistics)",
                  names.empty() ? "no arrays" : "only " + join(names, ", "));
}

std::string npz_text(const NamedArrays& arrays, const char* key) {
  const auto found = arrays.find(key);
  if (found == arrays.end() || found->second.dtype != DType::U8) return "";
  const auto& bytes = found->second.bytes;
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void require_finite(const at::Tensor& array, const std::string& path,
                    const std::string& key) {
  if (!at::isfinite(array).all().item<bool>())
    throw DataError(path, {}, "finite values in " + key, "not-a-number or infinity");
}

// A set of known mean and covariance. `count` 2 where nothing is known.
FeatureSet set_of_moments(const HostTensor& mu_array, const HostTensor& sigma_array,
                          int64_t count, const std::string& path, const std::string& mu_key,
                          const std::string& sigma_key) {
  const at::Tensor mu = to_tensor(mu_array).to(at::kDouble);
  const at::Tensor sigma = to_tensor(sigma_array).to(at::kDouble);
  if (mu.dim() != 1 || mu.size(0) == 0)
    throw DataError(path, {}, mu_key + " of shape [d]", shape_text(mu.sizes()));
  const int64_t d = mu.size(0);
  if (sigma.dim() != 2 || sigma.size(0) != d || sigma.size(1) != d)
    throw DataError(path, {}, sigma_key + " of shape [" + std::to_string(d) + ", " +
                    std::to_string(d) + "] to go with " + mu_key,
                    shape_text(sigma.sizes()));
  require_finite(mu, path, mu_key);
  require_finite(sigma, path, sigma_key);
  const double skew = (sigma - sigma.t()).abs().max().item<double>();
  const double size = sigma.diagonal().abs().max().item<double>();
  if (skew > 1e-5 * size)
    throw DataError(path, {}, "a symmetric " + sigma_key,
                    format("entries that differ by %g from their mirror image", skew));
  FeatureSet set;
  set.count = count;
  set.mean = mu;
  set.scatter = (sigma + sigma.t()) * (0.5 * static_cast<double>(count - 1));
  return set;
}

FeatureSet set_of_features(const HostTensor& array, const std::string& path,
                           const std::string& key) {
  const at::Tensor rows = to_tensor(array);
  if (rows.dim() != 2 || rows.size(0) < 2 || rows.size(1) == 0 ||
      !rows.is_floating_point())
    throw DataError(path, {}, key + ": floats of shape [N, d], N of 2 or more",
                    shape_text(rows.sizes()));
  require_finite(rows, path, key);
  FeatureSet set;
  for (int64_t begin = 0; begin < rows.size(0); begin += kRowsAtOnce)
    set.add(rows.slice(0, begin, std::min(begin + kRowsAtOnce, rows.size(0))));
  set.features = rows.to(at::kFloat);
  set.keep_features = true;
  return set;
}

std::optional<int64_t> stated_count(const NamedArrays& arrays, const std::string& path) {
  const auto found = arrays.find("num_images");
  if (found == arrays.end() || found->second.numel() != 1) return {};
  const auto count = to_tensor(found->second).reshape({}).to(at::kLong).item<int64_t>();
  if (count < 2) throw DataError(path, {}, "num_images of 2 or more", std::to_string(count));
  return count;
}

// Layers of mu*, sigma* and features*. `first`: the name of the layer without a suffix.
void read_layers(const NamedArrays& arrays, const std::string& path,
                 const std::string& first, Statistics& result) {
  std::vector<std::string> suffixes;
  for (const auto& [key, array] : arrays)
    for (const std::string stem : {"mu", "sigma", "features", "feats"})
      if (key == stem || key.starts_with(stem + "_")) {
        const std::string suffix = key.substr(stem.size());
        if (std::find(suffixes.begin(), suffixes.end(), suffix) == suffixes.end())
          suffixes.push_back(suffix);  // "" comes first: the map is sorted by "mu" too
      }
  std::sort(suffixes.begin(), suffixes.end());
  for (const std::string& suffix : suffixes) {
    LayerStatistics layer;
    layer.layer = suffix.empty() ? first : suffix == "_s" ? "spatial" : suffix.substr(1);
    const auto mu = arrays.find("mu" + suffix), sigma = arrays.find("sigma" + suffix);
    auto features = arrays.find("features" + suffix);
    if (features == arrays.end()) features = arrays.find("feats" + suffix);
    if (features != arrays.end()) {
      layer.set = set_of_features(features->second, path, features->first);
      if (!result.num_images) result.num_images = layer.set.count;
      if (*result.num_images != layer.set.count)
        throw DataError(path, {}, features->first + " of " +
                        std::to_string(*result.num_images) + " images (num_images)",
                        std::to_string(layer.set.count) + " rows");
    } else {
      if (mu == arrays.end()) missing_statistics(arrays, path, "mu" + suffix);
      if (sigma == arrays.end()) missing_statistics(arrays, path, "sigma" + suffix);
      layer.set = set_of_moments(mu->second, sigma->second,
                                 result.num_images.value_or(2), path, mu->first,
                                 sigma->first);
    }
    result.layers.push_back(std::move(layer));
  }
  if (result.layers.empty()) missing_statistics(arrays, path, "mu");
}

Statistics read_npz_statistics(const std::filesystem::path& path) {
  const std::string name = path.string();
  const NamedArrays arrays = read_npz(path);
  Statistics result;
  result.num_images = stated_count(arrays, name);
  result.source = {npz_text(arrays, "detector"), npz_text(arrays, "detector_sha256"),
                   npz_text(arrays, "mode"), npz_text(arrays, "resolution")};
  if (npz_text(arrays, "tool") == "flowmap") {
    result.writer = "flowmap";
  } else if (arrays.contains("mu_s")) {
    result.writer = "guided-diffusion";  // its graph resizes as TensorFlow does
    result.source = {"inception", "", "legacy_tensorflow", ""};
  } else if (read_clean_fid_name(path, result.source)) {
    result.writer = "clean-fid";
  }
  read_layers(arrays, name, npz_text(arrays, "layer"), result);
  return result;
}

// EDM2's detectors by its metrics' names.
std::string edm2_detector(std::string_view key) {
  if (key == "fid") return "inception";
  if (key.starts_with("fd_")) return std::string(key.substr(3));
  return std::string(key);
}

std::int64_t pickled_count(const PickleValue& value) {
  if (value.is(PickleKind::integer)) return value.as_int("num_images");
  if (const auto number = pickled_numpy_number(value))
    return static_cast<std::int64_t>(*number);
  value.refuse("num_images", "a whole number");
}

HostTensor pickled_array(const PickleValue& value, std::string_view what) {
  if (auto array = pickled_numpy_array(value)) return std::move(*array);
  value.refuse(what, "a numpy array");
}

Statistics read_pickled_statistics(const std::filesystem::path& path) {
  const std::string name = path.string();
  PickleOptions options;
  options.allow = allow_weights_global;
  const Pickle pickle(path, options);
  const PickleValue& root = pickle.root();
  const std::string wanted = "EDM2's statistics, {num_images, fid: {mu, sigma}}";
  if (!root.is(PickleKind::dict)) root.refuse("statistics", wanted);
  Statistics result;
  result.writer = "EDM2";
  result.source.mode = "edm";  // resized inside the network
  if (const PickleValue* count = root.find("num_images")) {
    result.num_images = pickled_count(*count);
    if (*result.num_images < 2) count->refuse("num_images", "2 or more");
  }
  std::string keys;
  for (const PickleItem& item : root.items()) {
    if (!item.key->is(PickleKind::text)) continue;
    const std::string key(item.key->as_text("key"));
    keys += (keys.empty() ? "" : ", ") + key;
    const PickleValue* mu = item.value->find("mu");
    const PickleValue* sigma = item.value->find("sigma");
    if (!mu || !sigma) continue;
    result.layers.push_back(
        {"", edm2_detector(key),
         set_of_moments(pickled_array(*mu, key + ".mu"),
                        pickled_array(*sigma, key + ".sigma"),
                        result.num_images.value_or(2), name, key + ".mu", key + ".sigma")});
  }
  if (result.layers.empty())
    throw DataError(name, {}, wanted, keys.empty() ? "no entries" : "only " + keys);
  return result;
}

}  // namespace

Statistics read_statistics(const std::filesystem::path& path) {
  return ends_with_ignoring_case(path.string(), ".pkl") ? read_pickled_statistics(path)
                                                        : read_npz_statistics(path);
}

}  // namespace flowmap::metrics
