// Kernel (Inception) distance: the squared maximum mean discrepancy of two sets of features
// under k(x, y) = (x.y / d + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401). All in float64.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace flowmap::metrics {

struct KernelDistance {
  double value = 0;           // unbiased; below zero where the sets are alike
  double standard_error = 0;  // of `value` over draws of both sets
};

// The U-statistic over all pairs: mean of k(x, x') and of k(y, y') over different rows,
// less twice the mean of k(x, y) over all. reference, generated: float [m, d], [n, d] with
// m, n >= 4; on the generated set's device. Kernel values exist in tiles of `tile` x `tile`
// only, the work is about (m + n)^2 d / 2 multiply-adds.
// Standard error: the variance by Hoeffding's decomposition ("A class of statistics with
// asymptotically normal distribution", 1948), both orders, each component estimated
// without bias from sums over the same kernel values (the result is that of Sutherland and
// Deka 2019, arXiv 1906.02104, for sets of any two sizes; Bounliphone et al. 2016 keep the
// first order only, which vanishes between alike sets). A first order that comes out below
// zero counts as zero, so that between alike sets it is about a fifth too large. Throws
// Error on too few rows, unlike dimensions, not-finite values.
KernelDistance kernel_distance(const at::Tensor& reference, const at::Tensor& generated,
                               int64_t tile = 1024);

// Kernel values of rows i0.. of x with rows j0.. of y: float64 [a, b], a, b <= tile.
using KernelTile = std::function<void(int64_t i0, int64_t j0, const at::Tensor& values)>;
// Calls `visit` for all tiles; `symmetric` (x and y the same rows): for those on and above
// the diagonal only.
void visit_kernel_tiles(const at::Tensor& x, const at::Tensor& y, bool symmetric,
                        int64_t tile, const KernelTile& visit);

// What the subset forms take.
struct KidSubsetOptions {
  int64_t subset_size = 1000;
  int64_t subsets = 100;
  std::uint32_t seed = 2020;
};

struct KidSubsets {
  double mean = 0;
  double deviation = 0;  // over subsets, population (N): spread, not an error of the mean
  std::vector<double> values;
};

// torch-fidelity's form: for each subset `subset_size` rows of the generated set, then of
// the reference, from one numpy RandomState(seed).choice without replacement. Throws
// UsageError where a set is smaller than a subset.
KidSubsets kid_subsets(const at::Tensor& reference, const at::Tensor& generated,
                       const KidSubsetOptions& options);

// clean-fid's form: subsets of min(subset_size, m, n) rows, the reference's drawn first;
// their mean alone. (clean-fid leaves numpy's seed to its caller.)
double kid_clean_fid(const at::Tensor& reference, const at::Tensor& generated,
                     const KidSubsetOptions& options);

}  // namespace flowmap::metrics
