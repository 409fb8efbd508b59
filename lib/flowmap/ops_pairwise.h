// Distances and kernels between all pairs of rows of two sets, in float64, exact for ties.
//
// A pair of rows has the same bits wherever the two stand, in whichever order, and whatever
// the other rows are: each is one chain of sums in order (kernels/api.h). Distances of
// squared_distances may therefore be compared with those within count_within on the same
// device. Matrix products cannot: a BLAS sums the edge of a matrix in another order than
// its middle. On a CPU with AVX-512 they are not faster either: a million pairs of 2048
// dimensions take 44 ms of one core here, 71 by at::mm in float64, 970 by the direct form
// of at::cdist.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>

namespace flowmap::ops {

// x float32 [n, d], y float32 [m, d], d >= 1, on one device. Others throw Error.

// float64 [n, m]: sum over k of (x[i,k] - y[j,k])^2. Callers tile the rows of x.
at::Tensor squared_distances(const at::Tensor& x, const at::Tensor& y);

// int64 [n]: for how many j the squared distance of x[i] and y[j] is at most (inclusive)
// or below a squared radius: float64 [n], of x.
at::Tensor count_within_own(const at::Tensor& x, const at::Tensor& y,
                            const at::Tensor& x_radii, bool inclusive);
// The same with the radii float64 [m] of y: within how many balls x[i] lies.
at::Tensor count_within_others(const at::Tensor& x, const at::Tensor& y,
                               const at::Tensor& y_radii, bool inclusive);

inline constexpr int64_t kSkipNone = std::numeric_limits<int64_t>::min();

// float64 [n]: sum over j of (x[i].y[j] / d + 1)^3, KID's kernel, without the term of
// j - i == skip (0: the diagonal of a set against itself).
at::Tensor polynomial_sums(const at::Tensor& x, const at::Tensor& y,
                           int64_t skip = kSkipNone);

}  // namespace flowmap::ops
