// Fréchet distance between two Gaussians fitted to features.
#pragma once

#include <ATen/core/Tensor.h>

#include "metrics/metric.h"

namespace flowmap::metrics {

// F, float64 [k, d] with F^T F = covariance, k <= min(count, d). Where features are kept:
// the centred features over sqrt(count - 1), or their QR factor where count > d.
// Otherwise the Cholesky factor of the covariance, and for (nearly) singular ones the
// symmetric eigen factor, rounding below zero cut.
at::Tensor covariance_factor(const FeatureSet& set);

// |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), Heusel et al. 2017, eq. 6, in
// float64 on the second set's device. The last trace is the nuclear norm of F1 F2^T, so no
// square root of a product is taken and no matrix exceeds min(N, d). It comes from singular
// values, or, where a bound says that 2e-14 of the traces is kept, from the eigenvalues of
// the product's Gram matrix, which take a fifth of the time. Error, in units of
// tr S1 + tr S2: 1e-12 from features (also where N < d), 1e-13 from covariances of full
// rank, 1e-7 from singular ones (their own rounding, under the root). Never negative: what
// rounding leaves below zero is returned as 0. Throws Error on sets of fewer than 2
// samples, of different dimensions, or not finite.
double frechet_distance(const FeatureSet& first, const FeatureSet& second);

}  // namespace flowmap::metrics
