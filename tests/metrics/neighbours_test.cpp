// Exact neighbours and counts in tiles against all pairs computed one by one, with ties.
#include "metrics/neighbours.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"

namespace flowmap::metrics {
namespace {

// Small whole numbers: squares are exact and ties many.
at::Tensor grid_rows(uint64_t seed, int64_t rows, int64_t d, int64_t high) {
  return Draw(seed, 0, rows).integer("neighbours_test", {d}, high).to(at::kFloat);
}

double plain_square(const at::Tensor& x, const at::Tensor& y) {
  return (x.to(at::kDouble) - y.to(at::kDouble)).square().sum().item<double>();
}

void expect_neighbours(const at::Tensor& x, const at::Tensor& y, int64_t k, int64_t tile,
                       double relative) {
  const Neighbours found = nearest_neighbours(x, y, k, tile);
  for (int64_t i = 0; i < x.size(0); ++i) {
    std::vector<std::pair<double, int64_t>> all;
    for (int64_t j = 0; j < y.size(0); ++j) all.emplace_back(plain_square(x[i], y[j]), j);
    std::sort(all.begin(), all.end());
    for (int64_t n = 0; n < k; ++n) {
      const auto& [square, row] = all[static_cast<std::size_t>(n)];
      EXPECT_NEAR(found.squares[i][n].item<double>(), square, relative * square);
      if (all[static_cast<std::size_t>(k - 1)].first > 0) {
        EXPECT_EQ(found.rows[i][n].item<int64_t>(), row) << i << " " << n;
      }
    }
  }
}

TEST(Neighbours, AgreeWithAllPairs) {
  const at::Tensor x = Draw(1, 0, 21).normal("x", {6}), y = Draw(2, 0, 33).normal("y", {6});
  for (const int64_t tile : {1, 5, 20, 64})
    for (const int64_t k : {1, 3, 33}) expect_neighbours(x, y, k, tile, 1e-14);
}

// More equal distances than candidates are kept: 40 rows out of 3^2 places.
TEST(Neighbours, TiesGoByRowNumber) {
  const at::Tensor x = grid_rows(3, 12, 2, 3), y = grid_rows(4, 40, 2, 3);
  for (const int64_t tile : {3, 7, 64})
    for (const int64_t k : {1, 4, 12}) expect_neighbours(x, y, k, tile, 0);
}

// Far from 0 with a small spread, where |x|^2 + |y|^2 - 2 x.y has no digits left.
TEST(Neighbours, SafeFarFromZero) {
  const at::Tensor x = Draw(5, 0, 20).normal("x", {8}) * 1e-2 + 1e4;
  const at::Tensor y = Draw(6, 0, 30).normal("y", {8}) * 1e-2 + 1e4;
  expect_neighbours(x, y, 3, 8, 1e-14);
}

// The same two rows give the same bits wherever they stand.
TEST(Neighbours, CopiesAreExactlyZeroAndTiesAreTies) {
  const at::Tensor base = Draw(7, 0, 50).normal("x", {37});
  const at::Tensor shuffled = base.flip(0);
  const Neighbours found = nearest_neighbours(base, shuffled, 2, 16);
  EXPECT_EQ(found.squares.select(1, 0).abs().max().item<double>(), 0);
  EXPECT_TRUE(at::equal(found.rows.select(1, 0), at::arange(49, -1, -1)));
  EXPECT_TRUE(at::equal(own_squares(base, 1, 16), found.squares.select(1, 1)));
  EXPECT_EQ(own_squares(at::ones({30, 4}), 5).abs().max().item<double>(), 0);
}

void expect_counts(const at::Tensor& x, const at::Tensor& y, bool inclusive) {
  const at::Tensor rx = own_squares(x, 2), ry = own_squares(y, 2);
  const BallCounts counts = count_in_balls(x, rx, y, ry, inclusive);
  at::Tensor in_row = at::zeros({x.size(0)}, at::kLong), covered = at::zeros_like(in_row);
  at::Tensor around = at::zeros({y.size(0)}, at::kLong);
  for (int64_t i = 0; i < x.size(0); ++i)
    for (int64_t j = 0; j < y.size(0); ++j) {
      const double square = plain_square(x[i], y[j]);
      const double of_x = rx[i].item<double>(), of_y = ry[j].item<double>();
      const bool in_x = inclusive ? square <= of_x : square < of_x;
      in_row[i] += in_x;
      around[j] += in_x;
      covered[i] += inclusive ? square <= of_y : square < of_y;
    }
  EXPECT_TRUE(at::equal(counts.in_row, in_row));
  EXPECT_TRUE(at::equal(counts.around, around));
  EXPECT_TRUE(at::equal(counts.covered, covered));
}

TEST(BallCounts, AgreeWithAllPairsUnderTies) {
  for (const bool inclusive : {true, false}) {
    expect_counts(grid_rows(8, 25, 2, 4), grid_rows(9, 31, 2, 4), inclusive);
    expect_counts(Draw(1, 0, 20).normal("x", {5}), Draw(2, 0, 30).normal("y", {5}),
                  inclusive);
  }
}

// A tie that no rounding of a product may decide: y is a copy of a row of x, so that its
// distance to another row is that row's own radius.
TEST(BallCounts, CopiesLieOnTheSphere) {
  const at::Tensor x = Draw(11, 0, 40).normal("x", {61}) * 3 + 5;
  const at::Tensor radii = own_squares(x, 1);
  const Neighbours nearest = nearest_neighbours(x, x, 2);
  const at::Tensor y = x.index_select(0, nearest.rows.select(1, 1));
  const at::Tensor none = at::zeros({40}, at::kDouble);
  const BallCounts closed = count_in_balls(x, radii, y, none, true);
  const BallCounts open = count_in_balls(x, radii, y, none, false);
  // Every ball holds its nearest row's copies on its sphere and copies of its centre.
  const at::Tensor on_sphere = closed.in_row - open.in_row;
  EXPECT_GE(on_sphere.min().item<int64_t>(), 1);
}

TEST(Neighbours, Refusals) {
  const at::Tensor x = at::ones({4, 3});
  EXPECT_THROW(nearest_neighbours(x, at::ones({4, 2}), 1), Error);
  EXPECT_THROW(nearest_neighbours(x, x, 5), Error);
  EXPECT_THROW(nearest_neighbours(at::Tensor(), x, 1), Error);
  EXPECT_THROW(own_squares(x, 4), Error);
  EXPECT_THROW(nearest_neighbours(x, at::full({4, 3}, std::nan("")), 1), Error);
  EXPECT_THROW(count_in_balls(x, at::ones({3}), x, at::ones({4}), true), Error);
}

}  // namespace
}  // namespace flowmap::metrics
