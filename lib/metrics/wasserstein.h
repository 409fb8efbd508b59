// Wasserstein-2 distances between sets of points.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace flowmap::metrics {

struct SlicedWasserstein {
  double value = 0;  // root of the mean over directions of the squared distance on a line
  double error = 0;  // of `value`, by the choice of directions
};

// Sliced Wasserstein-2 (Rabin et al. 2011; Bonneel et al. 2015): exact on each line,
// whatever the two counts. In the plane `directions` angles at even steps of pi /
// directions, error: the change from taking every second one. In more dimensions
// directions drawn uniformly from `seed`, error: their standard error. The value itself is
// biased upwards by finite sets, about 1/sqrt(N). x, y: float [n, d], [m, d]; directions
// >= 2 and even. Throws Error on other shapes, no points, values that are not finite.
SlicedWasserstein sliced_wasserstein(const at::Tensor& x, const at::Tensor& y,
                                     int64_t directions, std::uint64_t seed);

constexpr int64_t kMostAssigned = 4096;

// Exact Wasserstein-2 between two sets of the same size: the root of the least mean squared
// distance over all pairings. O(n^3), half a minute for 4096; n <= kMostAssigned. Throws
// UsageError on more rows or unlike counts and says what to do, Error on other shapes or
// values that are not finite.
double exact_wasserstein(const at::Tensor& x, const at::Tensor& y);

}  // namespace flowmap::metrics
