#include "metrics/wasserstein.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "metrics/metric.h"

namespace flowmap::metrics {
namespace {

at::Tensor points(uint64_t seed, int64_t n, int64_t d = 2) {
  return Draw(seed, 0, n).normal("wasserstein_test", {d});
}

// A shift is optimal as it is: its length exactly, and sliced by 1 / sqrt(d).
TEST(Wasserstein, OfAShift) {
  const at::Tensor x = points(1, 150), y = (x + at::tensor({3.0, 4.0})).flip(0);
  EXPECT_NEAR(exact_wasserstein(x, y), 5, 1e-5);
  const SlicedWasserstein sliced = sliced_wasserstein(x, y, 64, 0);
  EXPECT_NEAR(sliced.value, 5 / std::sqrt(2.0), 1e-5);
  EXPECT_LT(sliced.error, 1e-5);
  const at::Tensor wide = points(2, 100, 5);
  const SlicedWasserstein in_five = sliced_wasserstein(wide, wide + 2, 2000, 1);
  EXPECT_NEAR(in_five.value, 2, 5 * in_five.error);
  EXPECT_GT(in_five.error, 1e-3);
  EXPECT_LT(in_five.error, 0.1);
}

// On a line both are the distance of sorted values.
TEST(Wasserstein, OnALine) {
  const at::Tensor x = points(3, 64, 1), y = points(4, 64, 1) * 2 + 1;
  const auto sorted = [](const at::Tensor& t) {
    return std::get<0>(t.flatten().to(at::kDouble).sort());
  };
  const double expected =
      std::sqrt((sorted(x) - sorted(y)).square().mean().item<double>());
  EXPECT_NEAR(exact_wasserstein(x, y), expected, 1e-12);
  EXPECT_NEAR(sliced_wasserstein(x, y, 4, 0).value, expected, 1e-12);
}

// Unlike counts weigh as repeated points do.
TEST(Wasserstein, SlicedOfUnlikeCounts) {
  const at::Tensor x = points(5, 30), y = points(6, 45) + 0.5;
  const double expected =
      sliced_wasserstein(x.repeat({3, 1}), y.repeat({2, 1}), 32, 0).value;
  EXPECT_NEAR(sliced_wasserstein(x, y, 32, 0).value, expected, 1e-12);
  EXPECT_NEAR(sliced_wasserstein(y, x, 32, 0).value, expected, 1e-12);
}

// Never more than the exact distance, nothing between equal sets, and fixed.
TEST(Wasserstein, Bounds) {
  const at::Tensor x = points(7, 120), y = points(8, 120).abs();
  const SlicedWasserstein sliced = sliced_wasserstein(x, y, 256, 0);
  EXPECT_LT(sliced.value, exact_wasserstein(x, y));
  EXPECT_EQ(exact_wasserstein(x, x.flip(0)), 0);
  EXPECT_EQ(sliced_wasserstein(x, x, 16, 0).value, 0);
  EXPECT_EQ(sliced_wasserstein(x, x, 16, 0).error, 0);
  EXPECT_EQ(sliced_wasserstein(x, y, 256, 0).value, sliced.value);
  // The stated error holds against many more directions.
  const double finer = sliced_wasserstein(x, y, 4096, 0).value;
  const SlicedWasserstein coarse = sliced_wasserstein(x, y, 8, 0);
  EXPECT_LE(std::abs(coarse.value - finer), coarse.error + 1e-4);
}

TEST(Wasserstein, Refusals) {
  const at::Tensor x = points(9, 10);
  EXPECT_THROW(exact_wasserstein(x, points(9, 11)), UsageError);
  EXPECT_THROW(exact_wasserstein(points(1, 4097), points(2, 4097)), UsageError);
  EXPECT_THROW(exact_wasserstein(x, points(9, 10, 3)), Error);
  EXPECT_THROW(sliced_wasserstein(x, at::full({10, 2}, std::nan("")), 8, 0), Error);
  EXPECT_THROW(sliced_wasserstein(x, x, 7, 0), Error);
  EXPECT_THROW(sliced_wasserstein(x, at::empty({0, 2}), 8, 0), Error);
  try {
    exact_wasserstein(x, points(9, 11));
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("swd"), std::string::npos);
  }
}

TEST(Wasserstein, Entries) {
  FeatureSet x, y;
  x.keep_features = y.keep_features = true;
  x.add(points(1, 40));
  y.add(points(2, 40) + 1);
  EXPECT_EQ(make_metric("wd", Config())->compute(x, y).at(0).value,
            exact_wasserstein(x.features, y.features));
  const auto values = make_metric("swd32", Config())->compute(x, y);
  EXPECT_EQ(values.at(0).value, sliced_wasserstein(x.features, y.features, 32, 0).value);
  EXPECT_TRUE(values.at(1).detail);
  EXPECT_THROW(make_metric("swd33", Config()), UsageError);
}

}  // namespace
}  // namespace flowmap::metrics
