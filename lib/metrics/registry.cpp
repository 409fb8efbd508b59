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
      {"inception", "the 2015 Inception of FID: 2048, 768, 192, 64, spatial, logits",
       make_inception},
      {"points", "points are their own features", make_points},
  };
  return entries;
}

const std::vector<MetricEntry>& metric_registry() {
  static const std::vector<MetricEntry> entries = {
      {"fd", "layer", "Fréchet distance between Gaussians fitted to a detector's features",
       "Heusel et al. 2017, arXiv 1706.08500", make_frechet},
      {"fid", "layer", "Fréchet Inception distance (fid768: of 768 features)",
       "Heusel et al. 2017, arXiv 1706.08500", make_fid},
      {"sfid", nullptr, "Fréchet distance of the Inception's spatial features",
       "Nash et al. 2021, arXiv 2103.03841", make_sfid},
      {"kd", "layer", "kernel distance (MMD) over a detector's features, all pairs",
       "Binkowski et al. 2018, arXiv 1801.01401", make_kernel_distance},
      {"kid", "layer", "kernel Inception distance, all pairs, with its standard error",
       "Binkowski et al. 2018, arXiv 1801.01401", make_kid},
      {"kid_subsets", nullptr, "kernel Inception distance by torch-fidelity's subsets",
       "Binkowski et al. 2018, arXiv 1801.01401", make_kid_subsets},
      {"is", nullptr, "Inception Score", "Salimans et al. 2016, arXiv 1606.03498",
       make_inception_score},
      {"cs", nullptr, "the Inception Score's formula over another classifier's logits",
       "Salimans et al. 2016, arXiv 1606.03498", make_classifier_score},
      {"pr", "k", "improved precision and recall, 3 neighbours (pr5: 5)",
       "Kynkäänniemi et al. 2019, arXiv 1904.06991", make_precision_recall},
      {"prdc", "k", "density and coverage, 5 neighbours (prdc3: 3)",
       "Naeem et al. 2020, arXiv 2002.09797", make_density_coverage},
      {"memorisation", nullptr, "are samples copies of the training set (the reference)",
       "Alaa et al. 2022, arXiv 2102.08921; Gu et al. 2023, arXiv 2310.02664",
       make_memorisation},
      {"swd", "directions", "sliced Wasserstein-2 distance of points",
       "Bonneel et al. 2015, doi 10.1007/s10851-014-0506-3", make_sliced_wasserstein},
      {"wd", nullptr, "exact Wasserstein-2 distance of points, up to 4096 a side",
       "Jonker and Volgenant 1987, doi 10.1007/BF02278710", make_exact_wasserstein},
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
