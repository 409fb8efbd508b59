// How much of the generated set looks real, and how much of the real set is generated.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace flowmap::metrics {

struct PrecisionRecall {
  double precision = 0, recall = 0;  // Kynkaanniemi et al. 2019, arXiv 1904.06991
  double density = 0, coverage = 0;  // Naeem et al. 2020, arXiv 2002.09797
};

// Balls reach from each row to its k-th nearest other row of the same set.
//   precision  share of generated rows within the ball of some reference row
//   recall     share of reference rows within the ball of some generated row
//   density    pairs of a generated row within a reference row's ball, over k n
//   coverage   share of reference rows whose ball holds a generated row
// `inclusive`: on the sphere counts (torch-fidelity, guided-diffusion: precision and
// recall); false: it does not (prdc, all four). Real data has exact ties: duplicates.
// reference, generated: float [m, d], [n, d], more than k rows each. Counts are exact, see
// neighbours.h. Throws Error where rows are too few, unlike, or not finite.
PrecisionRecall precision_recall(const at::Tensor& reference, const at::Tensor& generated,
                                 int64_t k, bool inclusive);

}  // namespace flowmap::metrics
