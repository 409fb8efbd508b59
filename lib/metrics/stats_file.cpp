#include "metrics/stats_file.h"

#include <ATen/ATen.h>

#include <map>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/npy.h"
#include "flowmap/formats/zip.h"
#include "flowmap/tensor_io.h"

namespace flowmap::metrics {
namespace {

using Arrays = std::map<std::string, HostTensor>;
using Texts = std::map<std::string, std::string>;

// The arrays of the first layer have plain names, as other programs want them.
std::string array_name(const char* stem, const std::vector<LayerStatistics>& layers,
                       std::size_t i) {
  return i == 0 ? stem : std::string(stem) + "_" + layers[i].layer;
}

Texts source_texts(const std::vector<LayerStatistics>& layers,
                   const FeatureSource& source) {
  FM_CHECK(!layers.empty(), "a statistics file needs at least one layer");
  return {{"detector", source.detector},     {"detector_sha256", source.checksum},
          {"mode", source.mode},             {"resolution", source.resolution},
          {"layer", layers.front().layer},   {"tool", "flowmap"}};
}

void add_features(const std::vector<LayerStatistics>& layers, Arrays& arrays) {
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (layers[i].set.features.defined())
      arrays[array_name("features", layers, i)] =
          to_host(layers[i].set.features.to(at::kFloat));
}

HostTensor count_array(const std::vector<LayerStatistics>& layers) {
  return to_host(at::scalar_tensor(layers.at(0).set.count, at::kLong));
}

}  // namespace

void write_statistics(const std::filesystem::path& path,
                      const std::vector<LayerStatistics>& layers,
                      const FeatureSource& source) {
  const Texts texts = source_texts(layers, source);
  Arrays arrays = {{"num_images", count_array(layers)}};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    arrays[array_name("mu", layers, i)] = to_host(layers[i].set.mean.to(at::kDouble));
    arrays[array_name("sigma", layers, i)] =
        to_host(layers[i].set.covariance().to(at::kDouble));
  }
  add_features(layers, arrays);
  write_npz(path, arrays, texts);
}

void write_features(const std::filesystem::path& path,
                    const std::vector<LayerStatistics>& layers,
                    const FeatureSource& source) {
  const Texts texts = source_texts(layers, source);
  Arrays arrays = {{"num_images", count_array(layers)}};
  add_features(layers, arrays);
  write_npz(path, arrays, texts);
}

bool is_statistics_file(const std::filesystem::path& path) {
  if (ends_with_ignoring_case(path.string(), ".pkl")) return true;
  if (!ends_with_ignoring_case(path.string(), ".npz")) return false;
  const ZipReader zip(path);
  for (const char* name : {"mu.npy", "sigma.npy", "feats.npy", "features.npy"})
    if (zip.find(name) >= 0) return true;
  return false;
}

namespace {

// Statistics that cannot be of the layer asked for, whatever else agrees.
[[noreturn]] void refuse_dimensions(const Statistics& statistics, const std::string& path,
                                    const FeatureSource& ours, const FeatureLayer& layer) {
  std::vector<std::string> has;
  for (const LayerStatistics& each : statistics.layers)
    has.push_back(std::to_string(each.set.mean.size(0)) +
                  (each.layer.empty() ? "" : " (layer " + each.layer + ")"));
  throw UsageError(path + ": statistics of " + join(has, ", ") +
                   " dimensions, but layer " + layer.name + " of detector " +
                   ours.detector + " gives " + std::to_string(layer.dimensions) +
                   "; make them anew with `flowmap fid ref --data DATA --dest " + path +
                   "`");
}

const LayerStatistics& find_layer(const Statistics& statistics, const std::string& path,
                                  const FeatureSource& ours, const FeatureLayer& layer) {
  const auto fits = [&](const LayerStatistics& each) {
    return each.set.mean.size(0) == layer.dimensions;
  };
  // Its own name first; then what has none and is as wide; then another detector's.
  for (const LayerStatistics& each : statistics.layers)
    if (each.layer == layer.name && each.detector.empty() && fits(each)) return each;
  for (const LayerStatistics& each : statistics.layers)
    if (each.detector == ours.detector && fits(each)) return each;
  for (const LayerStatistics& each : statistics.layers)
    if (each.layer.empty() && each.detector.empty() && fits(each)) return each;
  for (const LayerStatistics& each : statistics.layers)
    if (fits(each)) return each;
  refuse_dimensions(statistics, path, ours, layer);
}

}  // namespace

const LayerStatistics& comparable_layer(const Statistics& statistics,
                                        const std::string& path,
                                        const FeatureSource& ours,
                                        const FeatureLayer& layer, int64_t generated,
                                        bool force, std::vector<std::string>& warnings) {
  const LayerStatistics& found = find_layer(statistics, path, ours, layer);
  const FeatureSource& theirs = statistics.source;
  const std::string detector =
      found.detector.empty() ? theirs.detector : found.detector;
  std::vector<std::string> unstated;
  const auto differs = [&](const std::string& what) {
    FM_CHECK_USAGE(force, what, ": the distance would mean nothing; make the statistics "
                   "anew with `flowmap fid ref`, or insist with --force");
    warnings.push_back(what + " (--force)");
  };
  struct Fact {
    const char* name;
    const std::string &theirs, &ours;
  };
  for (const Fact& fact : {Fact{"detector", detector, ours.detector},
                           {"detector_sha256", theirs.checksum, ours.checksum},
                           {"mode", theirs.mode, ours.mode},
                           {"resolution", theirs.resolution, ours.resolution},
                           {"layer", found.layer, layer.name}}) {
    if (fact.theirs == fact.ours) continue;
    if (fact.theirs.empty()) {
      unstated.push_back(std::string(fact.name) + " (taken as " + fact.ours + ")");
    } else if (fact.ours.empty()) {
      warnings.push_back(std::string(fact.name) + " of " + path + " is '" + fact.theirs +
                         "'; the other side does not state its own");
    } else if (fact.theirs == "mixed" || fact.ours == "mixed") {
      warnings.push_back(std::string(fact.name) + " of " + path + " is '" + fact.theirs +
                         "', of these samples '" + fact.ours + "'");
    } else {
      differs(std::string(fact.name) + " of " + path + " is '" + fact.theirs +
              "', of these samples '" + fact.ours + "'");
    }
  }
  if (!statistics.num_images)
    unstated.emplace_back("num_images");
  else if (*statistics.num_images < generated)
    differs("num_images of " + path + " is " + std::to_string(*statistics.num_images) +
            ", of these samples " + std::to_string(generated) +
            " (a distance grows with 1/N, so the smaller set decides)");
  if (!unstated.empty())
    warnings.push_back(path + " does not state its " + join(unstated, ", "));
  return found;
}

}  // namespace flowmap::metrics
