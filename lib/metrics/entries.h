// The plug-ins that registry.cpp lists.
#pragma once

#include <memory>
#include <string>

#include "metrics/metric.h"

namespace flowmap::metrics {

std::shared_ptr<Metric> make_frechet(const Config& options);      // "layer"
std::shared_ptr<Metric> make_fid(const Config& options);          // "layer"
std::shared_ptr<Metric> make_sfid(const Config& options);
std::shared_ptr<Metric> make_kernel_distance(const Config& options);  // "layer"
std::shared_ptr<Metric> make_kid(const Config& options);              // "layer"
// "layer", "subset_size", "subsets", "seed", "form": torch-fidelity | clean-fid
std::shared_ptr<Metric> make_kid_subsets(const Config& options);
// "splits", "shuffle", "seed"; "is" is the Inception's, "cs" any classifier's ("layer")
std::shared_ptr<Metric> make_inception_score(const Config& options);
std::shared_ptr<Metric> make_classifier_score(const Config& options);
// "k", "layer", "rule": "<=" | "<"
std::shared_ptr<Metric> make_precision_recall(const Config& options);
std::shared_ptr<Metric> make_density_coverage(const Config& options);
std::shared_ptr<Metric> make_memorisation(const Config& options);        // "layer"
std::shared_ptr<Metric> make_sliced_wasserstein(const Config& options);  // "directions"
std::shared_ptr<Metric> make_exact_wasserstein(const Config& options);
std::shared_ptr<Metric> make_grid_kl(const Config& options);  // "bins"

// "layer" of the Inception's pooled features: 64, 192, 768 or, by default, 2048.
std::string inception_layer(const Config& options);

std::shared_ptr<Detector> make_fmnist64(const Config& options);  // "path"
// "path", "mode", "device", "dtype"
std::shared_ptr<Detector> make_inception(const Config& options);
std::shared_ptr<Detector> make_points(const Config& options);

}  // namespace flowmap::metrics
