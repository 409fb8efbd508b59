#include "metrics/memorisation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "metrics/metric.h"

namespace flowmap::metrics {
namespace {

at::Tensor rows(uint64_t seed, int64_t n) {
  return Draw(seed, 0, n).normal("memorisation_test", {6});
}

TEST(Memorisation, CopiesAreFound) {
  const at::Tensor train = rows(1, 400);
  const at::Tensor copies = train.narrow(0, 50, 100).flip(0);
  for (const double noise : {0.0, 1e-3}) {
    const Memorisation result = memorisation(train, copies + rows(2, 100) * noise);
    EXPECT_EQ(result.authenticity, 0) << noise;
    EXPECT_EQ(result.memorised, 1) << noise;
    EXPECT_LT(result.median_ratio, 0.01) << noise;
  }
}

// Fresh draws of the same distribution are about as far as rows are from each other.
TEST(Memorisation, FreshDrawsAreNone) {
  const Memorisation result = memorisation(rows(1, 2000), rows(3, 1000));
  EXPECT_NEAR(result.authenticity, 0.5, 0.1);
  EXPECT_LT(result.memorised, 0.02);
  EXPECT_NEAR(result.median_ratio, 1, 0.15);
}

// On a line: 0.2 is nearest to 0 (own gap 1), 3.5 to 4 (own gap 3).
TEST(Memorisation, OnALine) {
  const at::Tensor train = at::tensor({0.0, 1.0, 4.0}).view({3, 1});
  const Memorisation result =
      memorisation(train, at::tensor({0.2, 3.5, 8.0}).view({3, 1}));
  EXPECT_DOUBLE_EQ(result.authenticity, 1.0 / 3);
  EXPECT_DOUBLE_EQ(result.memorised, 2.0 / 3);
  EXPECT_NEAR(result.median_ratio, 0.2, 1e-6);
}

// A reference row with an exact copy: its own distance is 0, whatever is not a copy of it
// is authentic.
TEST(Memorisation, CopiesInsideTheReference) {
  const at::Tensor train = at::tensor({0.0, 0.0, 4.0}).view({3, 1});
  const Memorisation near = memorisation(train, at::tensor({0.5}).view({1, 1}));
  EXPECT_EQ(near.authenticity, 1);
  EXPECT_EQ(near.memorised, 0);
  EXPECT_EQ(near.median_ratio, std::numeric_limits<double>::infinity());
  const Memorisation copy = memorisation(train, at::zeros({2, 1}));
  EXPECT_EQ(copy.authenticity, 0);
  EXPECT_EQ(copy.memorised, 1);
  EXPECT_EQ(copy.median_ratio, 0);
}

TEST(Memorisation, ClosestPairs) {
  const at::Tensor train = at::tensor({0.0, 1.0, 4.0}).view({3, 1});
  const at::Tensor made = at::tensor({8.0, 0.25, 3.5, 1.25}).view({4, 1});
  const auto pairs = closest_pairs(train, made, 3);
  ASSERT_EQ(pairs.size(), 3u);
  EXPECT_EQ(pairs[0].generated, 1);
  EXPECT_EQ(pairs[0].reference, 0);
  EXPECT_EQ(pairs[0].distance, 0.25);
  EXPECT_EQ(pairs[1].generated, 3);
  EXPECT_EQ(pairs[1].reference, 1);
  EXPECT_EQ(pairs[2].generated, 2);
  EXPECT_EQ(pairs[2].reference, 2);
  EXPECT_EQ(closest_pairs(train, made, 10).size(), 4u);
}

TEST(Memorisation, Entry) {
  FeatureSet x, y;
  x.keep_features = y.keep_features = true;
  x.add(rows(1, 40));
  y.add(rows(2, 50));
  const auto values = make_metric("memorisation", Config())->compute(x, y);
  const Memorisation expected = memorisation(x.features, y.features);
  EXPECT_EQ(values.at(0).name, "authenticity");
  EXPECT_EQ(values.at(0).value, expected.authenticity);
  EXPECT_EQ(values.at(1).value, expected.memorised);
  EXPECT_TRUE(values.at(2).detail);
  EXPECT_THROW(memorisation(at::Tensor(), y.features), Error);
  EXPECT_THROW(memorisation(x.features.narrow(0, 0, 1), y.features), Error);
}

}  // namespace
}  // namespace flowmap::metrics
