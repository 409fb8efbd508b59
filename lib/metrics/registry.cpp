#include <algorithm>
#include <cctype>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "metrics/entries.h"

namespace flowmap::metrics {

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
      {"fd", "layer", "Fréchet distance between Gaussians fitted to a detector's features",
       "Heusel et al. 2017, arXiv 1706.08500", make_frechet},
      {"kl", "bins", "KL of the checkerboard from a histogram of points (kl48: 48x48 cells)",
       "Boffi et al. 2025, arXiv 2505.18825", make_grid_kl},
  };
  return entries;
}

std::shared_ptr<Detector> make_detector(const std::string& name, const Config& options) {
  std::vector<std::string> names;
  for (const DetectorEntry& entry : detector_registry()) {
    if (name == entry.name) return entry.make(options);
    names.emplace_back(entry.name);
  }
  throw UsageError("unknown detector '" + name + "'" + suggestion(name, names));
}

std::shared_ptr<Metric> make_metric(const std::string& name, const Config& options) {
  // The longest name first that leaves a number, or nothing.
  const auto digits = std::find_if(name.rbegin(), name.rend(), [](unsigned char c) {
    return std::isdigit(c) == 0;
  });
  const auto stem_size = static_cast<std::size_t>(name.rend() - digits);
  const std::string stem = name.substr(0, stem_size), number = name.substr(stem_size);
  std::vector<std::string> names;
  for (const MetricEntry& entry : metric_registry()) {
    names.emplace_back(entry.name);
    if (name == entry.name) return entry.make(options);
    if (stem != entry.name || number.empty()) continue;
    FM_CHECK_USAGE(entry.number != nullptr, "metric ", name, ": ", stem,
                   " takes no number");
    FM_CHECK_USAGE(number.size() < 10 && number[0] != '0', "metric ", name, ": ", number,
                   " is no sensible ", entry.number);
    Config with_number = options;
    with_number.set_json(entry.number, number, "metric name");
    return entry.make(with_number);
  }
  throw UsageError("unknown metric '" + name + "'" + suggestion(stem, names));
}

}  // namespace flowmap::metrics
