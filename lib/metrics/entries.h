// The plug-ins that registry.cpp lists.
#pragma once

#include <memory>

#include "metrics/metric.h"

namespace flowmap::metrics {

std::shared_ptr<Metric> make_frechet(const Config& options);
std::shared_ptr<Metric> make_grid_kl(const Config& options);  // "bins"

std::shared_ptr<Detector> make_fmnist64(const Config& options);  // "path"
std::shared_ptr<Detector> make_points(const Config& options);

}  // namespace flowmap::metrics
