// Bootstrap intervals (Efron 1979) of distances between sets of features: how far another
// sample of the same size might move the number.
#pragma once

#include <cstdint>
#include <functional>

#include "metrics/metric.h"

namespace flowmap::metrics {

struct BootstrapOptions {
  int64_t resamples = 200;  // 2 to 100000
  std::uint64_t seed = 0;
  double level = 0.95;  // in (0, 1)
};

// Percentiles of the resampled values, moved by -bias so that they stand about `value`:
// resampling repeats rows, which raises a distance that has a bias of its own in 1/N (FID
// at 500 rows by several times its spread), and the unmoved interval need not even hold
// the value. The interval is of sampling noise; the bias in N of the metric stays in.
struct Interval {
  double value = 0;      // of the sets as they are
  double low = 0, high = 0;
  double deviation = 0;  // of the resampled values: the standard error
  double bias = 0;       // mean of the resampled values less `value`
};

// Rows of both sets are resampled independently with replacement, resample b from stream
// (seed, b); a set without kept features (statistics from a file) is taken as exact. The
// generated set must keep its features. Throws UsageError where it does not.

// Fréchet distance (frechet.h). Where both sets have fewer rows than dimensions one product
// X Y^T serves all resamples; otherwise weighted moments, n d^2 a resample and side.
Interval bootstrap_frechet(const FeatureSet& reference, const FeatureSet& generated,
                           const BootstrapOptions& options);

// Kernel distance (kid.h). Each tile of kernel values is made once and summed for all
// resamples; pairs of copies of one row are left out, as the estimator leaves out pairs of
// a row with itself. Between sets so alike that the distance is within its own error the
// bootstrap of such a statistic is too wide, by up to sqrt(3) (Arcones and Gine 1992); the
// standard error of kid.h is not. Both sets must keep their features.
Interval bootstrap_kernel_distance(const FeatureSet& reference,
                                   const FeatureSet& generated,
                                   const BootstrapOptions& options);

// Any metric of two sets, computed anew from the resampled rows.
using SetDistance = std::function<double(const FeatureSet&, const FeatureSet&)>;
Interval bootstrap(const SetDistance& distance, const FeatureSet& reference,
                   const FeatureSet& generated, const BootstrapOptions& options);

}  // namespace flowmap::metrics
