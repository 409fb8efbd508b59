// Bootstrap intervals: fast forms against resampling row by row, and against fresh sets.
#include "metrics/bootstrap.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "metrics/frechet.h"
#include "metrics/kid.h"

namespace flowmap::metrics {
namespace {

FeatureSet fresh_set(uint64_t seed, int64_t n, int64_t d, double scale = 1,
                     double shift = 0) {
  FeatureSet set;
  set.keep_features = true;
  set.add(Draw(seed, 0, n).normal("bootstrap_test", {d}) * scale + shift);
  return set;
}

void expect_same(const Interval& a, const Interval& b, double tolerance) {
  EXPECT_NEAR(a.value, b.value, tolerance);
  EXPECT_NEAR(a.low, b.low, tolerance);
  EXPECT_NEAR(a.high, b.high, tolerance);
  EXPECT_NEAR(a.deviation, b.deviation, tolerance);
  EXPECT_NEAR(a.bias, b.bias, tolerance);
}

// Both sides wide, both long, and one of each; a mean far from 0.
TEST(Bootstrap, FrechetAgreesWithPlainResampling) {
  const BootstrapOptions options{20, 5, 0.9};
  for (const auto& [n, m] : std::vector<std::pair<int64_t, int64_t>>{
           {15, 12}, {12, 15}, {60, 50}, {15, 60}}) {
    const FeatureSet x = fresh_set(1, n, 20, 1, 100), y = fresh_set(2, m, 20, 1.5, 101);
    expect_same(bootstrap_frechet(x, y, options),
                bootstrap(frechet_distance, x, y, options), 2e-6);
  }
}

// Statistics alone are taken as exact.
TEST(Bootstrap, FrechetAgainstStatistics) {
  const BootstrapOptions options{12, 6, 0.8};
  FeatureSet x = fresh_set(1, 60, 8);
  x.features = at::Tensor();
  const FeatureSet y = fresh_set(2, 50, 8, 1.5);
  expect_same(bootstrap_frechet(x, y, options), bootstrap(frechet_distance, x, y, options),
              1e-9);
  EXPECT_THROW(bootstrap_frechet(y, x, options), UsageError);
  EXPECT_THROW(bootstrap_kernel_distance(x, y, options), UsageError);
}

// Without the repeated rows the resampled values have no bias to speak of.
TEST(Bootstrap, KernelDistanceHasNoBias) {
  const FeatureSet x = fresh_set(3, 80, 6), y = fresh_set(4, 70, 6, 1.2, 1);
  const Interval out = bootstrap_kernel_distance(x, y, {1000, 1, 0.95});
  const KernelDistance all = kernel_distance(x.features, y.features);
  EXPECT_EQ(out.value, all.value);
  EXPECT_LT(std::abs(out.bias), 4 * out.deviation / std::sqrt(1000.0));
  EXPECT_NEAR(out.deviation / all.standard_error, 1, 0.2);
  EXPECT_LT(out.low, out.value);
  EXPECT_GT(out.high, out.value);
  EXPECT_NEAR((out.high - out.low) / (2 * 1.96 * out.deviation), 1, 0.15);
}

// The interval of one pair is about as wide as the spread over fresh pairs.
TEST(Bootstrap, FrechetWidthIsTheSpreadOverFreshSets) {
  std::vector<double> values;
  double deviation = 0;
  constexpr int kSets = 60;
  for (uint64_t s = 0; s < kSets; ++s) {
    const FeatureSet x = fresh_set(100 + s, 200, 4), y = fresh_set(300 + s, 200, 4, 1.3);
    const Interval out = bootstrap_frechet(x, y, {40, s, 0.9});
    values.push_back(out.value);
    deviation += out.deviation / kSets;
    EXPECT_GT(out.bias, 0);
    EXPECT_LE(out.low, out.value);
    EXPECT_GE(out.high, out.value);
  }
  const double spread = at::tensor(values, at::kDouble).std().item<double>();
  EXPECT_NEAR(deviation / spread, 1, 0.3);
}

TEST(Bootstrap, SeedAndLevel) {
  const FeatureSet x = fresh_set(5, 30, 3), y = fresh_set(6, 30, 3, 2);
  const Interval a = bootstrap_frechet(x, y, {50, 1, 0.9});
  expect_same(a, bootstrap_frechet(x, y, {50, 1, 0.9}), 0);
  EXPECT_NE(a.high, bootstrap_frechet(x, y, {50, 2, 0.9}).high);
  const Interval narrow = bootstrap_frechet(x, y, {50, 1, 0.5});
  EXPECT_GT(narrow.low, a.low);
  EXPECT_LT(narrow.high, a.high);
  EXPECT_THROW(bootstrap_frechet(x, y, {1, 0, 0.9}), UsageError);
  EXPECT_THROW(bootstrap_frechet(x, y, {10, 0, 1.0}), UsageError);
}

}  // namespace
}  // namespace flowmap::metrics
