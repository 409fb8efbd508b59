// KL divergence of the checkerboard from a histogram of samples.
#pragma once

#include <ATen/core/Tensor.h>

namespace flowmap::metrics {

struct GridKl {
  double kl = 0;       // nats
  double outside = 0;  // share of the points off the board's kept squares
};

// The checkerboard: [-1, 1]^2 in 4 x 4 squares of side 0.5; uniform on those with even
// (i + j). points: float [N, 2]. KL(rho1 || q), q the histogram of all points over
// bins x bins cells of [-1, 1]^2 (points outside fall in none but count in N), the
// integral taken at the cells' centres (Boffi et al. 2025, appendix). Cells without
// points would make it infinite: q is held at or above a density of 1e-3, which 64,000
// samples reach with a tenth of a point.
// Perfect samples score about (occupied cells) / 2N: with 48 cells .0096 at 64k and .0005
// at 1M. With 50 cells the squares' edges at +-0.5 cut through cells and even perfect
// samples score .0655 at 64k: take a multiple of 4.
// Throws UsageError on other shapes, on no points, on values that are not finite.
GridKl grid_kl(const at::Tensor& points, int64_t bins);

}  // namespace flowmap::metrics
