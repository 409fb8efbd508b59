#include "metrics/grid_kl.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/rng.h"
#include "metrics/metric.h"

namespace flowmap::metrics {
namespace {

// Exact samples of the checkerboard: one of 8 squares, a point in it.
at::Tensor checkerboard(std::uint64_t seed, int64_t n) {
  at::Tensor points = at::empty({n, 2});
  float* xy = points.data_ptr<float>();
  const std::uint64_t stream = stream_id("grid_kl_test");
  for (int64_t k = 0; k < n; ++k) {
    float u[4];
    philox_uniforms(seed, stream, static_cast<std::uint64_t>(k), u);
    const int i = static_cast<int>(u[0] * 4);
    const int j = 2 * static_cast<int>(u[1] * 2) + i % 2;
    xy[2 * k] = -1 + 0.5f * (static_cast<float>(i) + u[2]);
    xy[2 * k + 1] = -1 + 0.5f * (static_cast<float>(j) + u[3]);
  }
  return points;
}

// Floors of the estimator on exact samples. Where the cells fit the squares: about
// occupied cells / 2N. With 50 cells, 100 of the kept ones are half covered:
// 100 (.0016 / 2) ln 2 = .05545, plus (1152 + 200) / 2N.
TEST(GridKl, FloorOnExactSamples) {
  for (const std::uint64_t seed : {1, 2}) {
    const at::Tensor points = checkerboard(seed, 64000);
    EXPECT_NEAR(grid_kl(points, 48).kl, 0.0096, 0.001);
    EXPECT_NEAR(grid_kl(points, 50).kl, 0.0655, 0.003);
    EXPECT_NEAR(grid_kl(points, 64).kl, 0.0162, 0.0015);
    EXPECT_EQ(grid_kl(points, 48).outside, 0);
  }
  const at::Tensor many = checkerboard(3, 1000000);
  EXPECT_NEAR(grid_kl(many, 48).kl, 1152 / 2e6, 1e-4);
  EXPECT_NEAR(grid_kl(many, 50).kl, 0.05545 + 1352 / 2e6, 7e-4);
  EXPECT_NEAR(grid_kl(many, 64).kl, 2048 / 2e6, 1e-4);
}

// Uniform on the whole of [-1, 1]^2: density 1/4 against 1/2, ln 2; half is outside.
TEST(GridKl, UniformSquareIsLogTwo) {
  constexpr int64_t kSide = 960;
  const at::Tensor line = (at::arange(kSide, at::kDouble) + 0.5) / (kSide / 2.0) - 1;
  const at::Tensor points =
      at::stack({line.repeat_interleave(kSide), line.repeat({kSide})}, 1);
  const GridKl result = grid_kl(points, 48);
  EXPECT_NEAR(result.kl, std::log(2.0), 1e-12);
  EXPECT_NEAR(result.outside, 0.5, 1e-12);
}

// All mass at one point off the board: the floor of the density, ln(0.5 / 1e-3).
TEST(GridKl, EmptyCellsAreHeldAtTheFloor) {
  const GridKl result = grid_kl(at::full({100, 2}, 3.0), 48);
  EXPECT_NEAR(result.kl, std::log(500.0), 1e-12);
  EXPECT_EQ(result.outside, 1);
}

// Points outside count in N: exact samples diluted by half lose ln 2.
TEST(GridKl, PointsOutsideDilute) {
  const at::Tensor board = checkerboard(4, 64000);
  const at::Tensor both = at::cat({board, at::full({64000, 2}, -2.0)});
  const GridKl pure = grid_kl(board, 48), diluted = grid_kl(both, 48);
  EXPECT_NEAR(diluted.kl - pure.kl, std::log(2.0), 1e-3);
  EXPECT_NEAR(diluted.outside, 0.5, 1e-12);
}

TEST(GridKl, EdgesOfTheBoardAreInside) {
  const GridKl result = grid_kl(at::tensor({-1.0, -1.0, 1.0, 1.0}).view({2, 2}), 48);
  EXPECT_EQ(result.outside, 0);
}

TEST(GridKl, MetricParsesItsName) {
  FeatureSet generated;
  generated.keep_features = true;
  generated.add(checkerboard(5, 64000));
  const FeatureSet none;
  EXPECT_NEAR(make_metric("kl48", Config())->compute(none, generated).at(0).value, 0.0096, 0.001);
  EXPECT_NEAR(make_metric("kl50", Config())->compute(none, generated).at(0).value, 0.0655, 0.003);
  EXPECT_THROW(make_metric("kl3", Config()), UsageError);
  EXPECT_THROW(make_metric("klm", Config()), UsageError);
  EXPECT_THROW(make_metric("kl48x", Config()), UsageError);
}

TEST(GridKl, Refusals) {
  EXPECT_THROW(grid_kl(at::zeros({0, 2}), 48), UsageError);
  EXPECT_THROW(grid_kl(at::zeros({4, 3}), 48), UsageError);
  EXPECT_THROW(grid_kl(at::zeros({4, 2}), 2), UsageError);
  EXPECT_THROW(grid_kl(at::full({4, 2}, std::numeric_limits<double>::quiet_NaN()), 48),
               UsageError);
  EXPECT_THROW(grid_kl({}, 48), UsageError);
}

}  // namespace
}  // namespace flowmap::metrics
