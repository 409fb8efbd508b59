#include <algorithm>
#include <charconv>
#include <optional>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "metrics/entries.h"

namespace flowmap::metrics {
namespace {

// M of "klM".
std::optional<int64_t> grid_bins(const std::string& name) {
  if (name.size() < 3 || name.compare(0, 2, "kl") != 0) return {};
  int64_t bins = 0;
  const char* end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data() + 2, end, bins);
  if (error != std::errc{} || stop != end) return {};
  return bins;
}

template <class Entries>
[[noreturn]] void refuse_name(const char* what, const std::string& name,
                              const Entries& entries) {
  std::vector<std::string> names;
  for (const auto& entry : entries) names.emplace_back(entry.name);
  throw UsageError(std::string("unknown ") + what + " '" + name + "'" +
                   suggestion(name, names));
}

}  // namespace

const std::vector<DetectorEntry>& detector_registry() {
  static const std::vector<DetectorEntry> entries = {
      {"fmnist64", "64 features of a Fashion-MNIST classifier, 28x28 gray images",
       make_fmnist64},
      {"points", "points are their own features", make_points},
  };
  return entries;
}

const std::vector<MetricEntry>& metric_registry() {
  static const std::vector<MetricEntry> entries = {
      {"fd", "Fréchet distance between Gaussians fitted to a detector's features",
       "Heusel et al. 2017, arXiv 1706.08500", make_frechet},
      {"kl48", "KL of the checkerboard from a 48x48 histogram of points (klM: MxM)",
       "Boffi et al. 2025, arXiv 2505.18825", make_grid_kl},
  };
  return entries;
}

std::shared_ptr<Detector> make_detector(const std::string& name, const Config& options) {
  for (const DetectorEntry& entry : detector_registry())
    if (name == entry.name) return entry.make(options);
  refuse_name("detector", name, detector_registry());
}

std::shared_ptr<Metric> make_metric(const std::string& name, const Config& options) {
  if (const auto bins = grid_bins(name)) {
    FM_CHECK_USAGE(*bins >= 4 && *bins <= 4096, "metric ", name,
                   ": the histogram's side must be 4 to 4096");
    Config with_bins = options;
    with_bins.set_json("bins", std::to_string(*bins), "metric name");
    return make_grid_kl(with_bins);
  }
  for (const MetricEntry& entry : metric_registry())
    if (name == entry.name) return entry.make(options);
  refuse_name("metric", name, metric_registry());
}

}  // namespace flowmap::metrics
