#include "metrics/neighbours.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"

namespace flowmap::metrics {
namespace {

// Candidates kept beyond the k wanted: rounding may swap so many close ones.
constexpr int64_t kSpare = 8;

// Not inlined: one sequence of instructions for all callers.
template <typename T>
[[gnu::noinline]] double direct_square(const T* x, const T* y, int64_t d) {
  constexpr int64_t kLanes = 8;
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= d; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const double gap =
          static_cast<double>(x[i + lane]) - static_cast<double>(y[i + lane]);
      sums[lane] += gap * gap;
    }
  for (; i < d; ++i) {
    const double gap = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    sums[i % kLanes] += gap * gap;
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
         ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// Two sets with rows on the CPU for direct distances, and centred tiles of them on their
// device for products.
class RowPair {
 public:
  RowPair(const at::Tensor& x, const at::Tensor& y) {
    FM_CHECK(x.defined() && y.defined() && x.dim() == 2 && y.dim() == 2,
             "distances between features need the features of both sets themselves, "
             "[N, d]; statistics do not hold them");
    FM_CHECK(x.size(1) == y.size(1) && x.size(1) > 0, "features of ", x.size(1), " and ",
             y.size(1), " dimensions");
    FM_CHECK(x.size(0) > 0 && y.size(0) > 0, "distances to no features at all");
    for (const at::Tensor* rows : {&x, &y})
      FM_CHECK(at::isfinite(*rows).all().item<bool>(), "features are not finite");
    wide_ = x.scalar_type() == at::kDouble || y.scalar_type() == at::kDouble;
    const at::ScalarType type = wide_ ? at::kDouble : at::kFloat;
    y_ = y.detach();
    x_ = x.detach().to(y.device());
    cpu_x_ = x_.to(at::kCPU, type).contiguous();
    cpu_y_ = y_.to(at::kCPU, type).contiguous();
    centre_ = y_.mean(0, false, at::kDouble);
  }

  double square(int64_t i, int64_t j) const {
    const int64_t d = cpu_x_.size(1);
    if (wide_)
      return direct_square(cpu_x_.const_data_ptr<double>() + i * d,
                           cpu_y_.const_data_ptr<double>() + j * d, d);
    return direct_square(cpu_x_.const_data_ptr<float>() + i * d,
                         cpu_y_.const_data_ptr<float>() + j * d, d);
  }

  struct Tile {
    at::Tensor rows, norms;  // [a, d], [a]
  };
  Tile x_tile(int64_t begin, int64_t size) const { return centred(x_, begin, size); }
  Tile y_tile(int64_t begin, int64_t size) const { return centred(y_, begin, size); }

  // Squared distances by a product, [a, b].
  static at::Tensor near_squares(const Tile& a, const Tile& b) {
    return a.rows.mm(b.rows.t()).mul_(-2).add_(a.norms.unsqueeze(1)).add_(b.norms);
  }

  // Such a square and the direct one differ by no more than this times the sum of the two
  // norms: d + 4 roundings in each of the two norms and the product, d in the direct sum,
  // 4 from centring.
  double relative_error() const {
    return (4.0 * static_cast<double>(cpu_x_.size(1)) + 32) *
           (std::numeric_limits<double>::epsilon() / 2);
  }

 private:
  Tile centred(const at::Tensor& rows, int64_t begin, int64_t size) const {
    Tile tile;
    tile.rows = rows.narrow(0, begin, size).to(at::kDouble) - centre_;
    tile.norms = tile.rows.square().sum(1);
    return tile;
  }

  at::Tensor x_, y_, cpu_x_, cpu_y_, centre_;
  bool wide_ = false;
};

using Found = std::pair<double, int64_t>;  // square, row

// The k nearest of query i, given candidates that hold every row nearer than `sure`.
void settle_row(const RowPair& pair, int64_t i, const std::vector<int64_t>& candidates,
                double sure, int64_t base_count, int64_t k, int64_t* rows,
                double* squares) {
  std::vector<Found> found;
  for (const int64_t j : candidates) found.emplace_back(pair.square(i, j), j);
  std::sort(found.begin(), found.end());
  const double last = found[static_cast<std::size_t>(k - 1)].first;
  if (static_cast<int64_t>(candidates.size()) < base_count && last > 0 && last >= sure) {
    found.clear();
    for (int64_t j = 0; j < base_count; ++j) found.emplace_back(pair.square(i, j), j);
    std::partial_sort(found.begin(), found.begin() + k, found.end());
  }
  for (int64_t n = 0; n < k; ++n) {
    squares[n] = found[static_cast<std::size_t>(n)].first;
    rows[n] = found[static_cast<std::size_t>(n)].second;
  }
}

// bool [a, b]: which pairs lie within the ball of the one with the radius. What rounding
// (`slack`) leaves open is computed directly.
at::Tensor pairs_inside(const RowPair& pair, const at::Tensor& squares, const at::Tensor& radii,
                  const at::Tensor& slack, const at::Tensor& cpu_radii, bool radius_of_x,
                  bool inclusive, int64_t i0, int64_t j0) {
  const at::Tensor difference = squares - radii;
  at::Tensor within = difference < -slack;
  // nonzero's answer is laid out by columns.
  const at::Tensor open = (difference.abs() <= slack).nonzero().cpu().contiguous();
  if (open.size(0) == 0) return within;
  const auto* at = open.const_data_ptr<int64_t>();
  const auto* radius = cpu_radii.const_data_ptr<double>();
  at::Tensor truth = at::empty({open.size(0)}, at::kBool);
  bool* yes = truth.mutable_data_ptr<bool>();
  at::parallel_for(0, open.size(0), 256, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t i = i0 + at[2 * n], j = j0 + at[2 * n + 1];
      const double square = pair.square(i, j), most = radius[radius_of_x ? i : j];
      yes[n] = inclusive ? square <= most : square < most;
    }
  });
  const at::Tensor where = open.to(within.device());
  within.index_put_({where.select(1, 0), where.select(1, 1)}, truth.to(within.device()));
  return within;
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
  const int64_t kept = std::min(k + kSpare, m);
  for (int64_t i0 = 0; i0 < n; i0 += tile) {
    const int64_t size = std::min(tile, n - i0);
    const RowPair::Tile a = pair.x_tile(i0, size);
    at::Tensor best, best_rows;
    double largest_norm = 0;
    for (int64_t j0 = 0; j0 < m; j0 += tile) {
      const int64_t width = std::min(tile, m - j0);
      const RowPair::Tile b = pair.y_tile(j0, width);
      largest_norm = std::max(largest_norm, b.norms.max().item<double>());
      auto [values, places] =
          RowPair::near_squares(a, b).topk(std::min(kept, width), 1, false);
      places += j0;
      if (best.defined()) {
        const at::Tensor both = at::cat({best, values}, 1);
        const auto [top, from] = both.topk(std::min(kept, both.size(1)), 1, false);
        best_rows = at::cat({best_rows, places}, 1).gather(1, from);
        best = top;
      } else {
        best = values;
        best_rows = places;
      }
    }
    const at::Tensor sure = (best.amax(1) - (a.norms + largest_norm) *
                                                pair.relative_error()).cpu();
    best_rows = best_rows.cpu().contiguous();
    const auto* candidate = best_rows.const_data_ptr<int64_t>();
    const auto* least = sure.const_data_ptr<double>();
    auto* rows = out.rows.mutable_data_ptr<int64_t>();
    auto* squares = out.squares.mutable_data_ptr<double>();
    at::parallel_for(0, size, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        settle_row(pair, i0 + i, {candidate + i * kept, candidate + (i + 1) * kept},
                   least[i], m, k, rows + (i0 + i) * k, squares + (i0 + i) * k);
    });
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
                          bool inclusive, int64_t tile) {
  const at::NoGradGuard no_grad;
  const RowPair pair(rows, others);
  const int64_t n = rows.size(0), m = others.size(0);
  FM_CHECK(row_squares.numel() == n && other_squares.numel() == m, "a squared radius for "
           "each row: got ", row_squares.numel(), " for ", n, " and ",
           other_squares.numel(), " for ", m);
  FM_CHECK(tile >= 1, "distance tiles of ", tile, " rows");
  const at::Device device = others.device();
  const at::Tensor cpu_r = row_squares.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor cpu_o = other_squares.to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor r = cpu_r.to(device), o = cpu_o.to(device);
  const auto counts = at::TensorOptions().dtype(at::kLong).device(device);
  BallCounts out{at::zeros({n}, counts), at::zeros({m}, counts), at::zeros({n}, counts)};
  for (int64_t i0 = 0; i0 < n; i0 += tile) {
    const int64_t a_size = std::min(tile, n - i0);
    const RowPair::Tile a = pair.x_tile(i0, a_size);
    for (int64_t j0 = 0; j0 < m; j0 += tile) {
      const int64_t b_size = std::min(tile, m - j0);
      const RowPair::Tile b = pair.y_tile(j0, b_size);
      const at::Tensor squares = RowPair::near_squares(a, b);
      const at::Tensor slack =
          (a.norms.unsqueeze(1) + b.norms).mul_(pair.relative_error());
      const at::Tensor in_rows =
          pairs_inside(pair, squares, r.narrow(0, i0, a_size).unsqueeze(1), slack, cpu_r, true,
                 inclusive, i0, j0);
      out.in_row.narrow(0, i0, a_size) += in_rows.sum(1);
      out.around.narrow(0, j0, b_size) += in_rows.sum(0);
      out.covered.narrow(0, i0, a_size) +=
          pairs_inside(pair, squares, o.narrow(0, j0, b_size), slack, cpu_o, false, inclusive,
                 i0, j0).sum(1);
    }
  }
  out = {out.in_row.cpu(), out.around.cpu(), out.covered.cpu()};
  return out;
}

}  // namespace flowmap::metrics
