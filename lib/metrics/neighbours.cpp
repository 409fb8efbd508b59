#include "metrics/neighbours.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/ops_pairwise.h"

namespace flowmap::metrics {
namespace {

// Both sets as the kernels take them, on the device of the second.
struct RowPair {
  at::Tensor x, y;  // float32 [n, d], [m, d]

  RowPair(const at::Tensor& first, const at::Tensor& second) {
    FM_CHECK(first.defined() && second.defined() && first.dim() == 2 && second.dim() == 2,
             "distances between features need the features of both sets themselves, "
             "[N, d]; statistics do not hold them");
    FM_CHECK(first.size(1) == second.size(1) && first.size(1) > 0, "features of ",
             first.size(1), " and ", second.size(1), " dimensions");
    FM_CHECK(first.size(0) > 0 && second.size(0) > 0, "distances to no features at all");
    y = second.detach().to(at::kFloat).contiguous();
    x = first.detach().to(y.device(), at::kFloat).contiguous();
    for (const at::Tensor* rows : {&x, &y})
      FM_CHECK(at::isfinite(*rows).all().item<bool>(), "features are not finite");
  }
};

using Found = std::pair<double, int64_t>;  // square, row

// Lets the distances of rows begin.. of the base compete with the k best so far.
void compete(std::vector<Found>& best, const double* squares, int64_t begin, int64_t count,
             std::size_t k) {
  for (int64_t j = 0; j < count; ++j) {
    if (best.size() == k && squares[j] >= best.back().first) continue;
    const Found found{squares[j], begin + j};
    best.insert(std::upper_bound(best.begin(), best.end(), found), found);
    if (best.size() > k) best.pop_back();
  }
}

}  // namespace

Neighbours nearest_neighbours(const at::Tensor& queries, const at::Tensor& base, int64_t k,
                              int64_t tile) {
  const at::NoGradGuard no_grad;
  const RowPair pair(queries, base);
  const int64_t n = queries.size(0), m = base.size(0);
  FM_CHECK(k >= 1 && k <= m, "the ", k, " nearest of ", m, " rows");
  FM_CHECK(tile >= 1, "distance tiles of ", tile, " rows");
  Neighbours out;
  out.rows = at::empty({n, k}, at::kLong);
  out.squares = at::empty({n, k}, at::kDouble);
  auto* rows = out.rows.mutable_data_ptr<int64_t>();
  auto* squares = out.squares.mutable_data_ptr<double>();
  for (int64_t i0 = 0; i0 < n; i0 += tile) {
    const int64_t size = std::min(tile, n - i0);
    std::vector<std::vector<Found>> best(static_cast<std::size_t>(size));
    for (int64_t j0 = 0; j0 < m; j0 += tile) {
      const int64_t width = std::min(tile, m - j0);
      const at::Tensor some = ops::squared_distances(pair.x.narrow(0, i0, size),
                                                     pair.y.narrow(0, j0, width)).cpu();
      const auto* from = some.const_data_ptr<double>();
      for (int64_t i = 0; i < size; ++i)
        compete(best[static_cast<std::size_t>(i)], from + i * width, j0, width,
                static_cast<std::size_t>(k));
    }
    for (const auto& row : best)
      for (const auto& [square, which] : row) {
        *rows++ = which;
        *squares++ = square;
      }
  }
  return out;
}

at::Tensor own_squares(const at::Tensor& rows, int64_t k, int64_t tile) {
  FM_CHECK(rows.defined() && rows.size(0) > k, "the ", k, " nearest other rows need more "
           "than ", k, " rows, got ", rows.defined() ? rows.size(0) : 0);
  // Each row is its own nearest, at 0.
  return nearest_neighbours(rows, rows, k + 1, tile).squares.select(1, k).contiguous();
}

BallCounts count_in_balls(const at::Tensor& rows, const at::Tensor& row_squares,
                          const at::Tensor& others, const at::Tensor& other_squares,
                          bool inclusive) {
  const at::NoGradGuard no_grad;
  const RowPair pair(rows, others);
  FM_CHECK(row_squares.numel() == rows.size(0) && other_squares.numel() == others.size(0),
           "a squared radius for each row: got ", row_squares.numel(), " for ",
           rows.size(0), " and ", other_squares.numel(), " for ", others.size(0));
  const auto radii = [&](const at::Tensor& squares) {
    return squares.to(pair.y.device(), at::kDouble).contiguous();
  };
  const at::Tensor r = radii(row_squares), o = radii(other_squares);
  return {ops::count_within_own(pair.x, pair.y, r, inclusive).cpu(),
          ops::count_within_others(pair.y, pair.x, r, inclusive).cpu(),
          ops::count_within_others(pair.x, pair.y, o, inclusive).cpu()};
}

}  // namespace flowmap::metrics
