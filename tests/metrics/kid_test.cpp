// Kernel distance: against the definition, other tools' numbers, and its own spread.
#include "metrics/kid.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "metrics/bootstrap.h"
#include "metrics/metric.h"
#include "metrics/numpy_random.h"
#include "tests/metrics/sets_reference.h"

namespace flowmap::metrics {
namespace {

at::Tensor normal_rows(uint64_t seed, int64_t rows, int64_t d) {
  return Draw(seed, 0, rows).normal("kid_test", {d});
}

// The definition, pair by pair.
double plain_distance(const at::Tensor& x, const at::Tensor& y) {
  const auto mean = [](const at::Tensor& a, const at::Tensor& b, bool own) {
    double sum = 0;
    int64_t pairs = 0;
    for (int64_t i = 0; i < a.size(0); ++i)
      for (int64_t j = 0; j < b.size(0); ++j) {
        if (own && i == j) continue;
        const double dot = (a[i].to(at::kDouble) * b[j].to(at::kDouble)).sum().item<double>();
        sum += std::pow(dot / static_cast<double>(a.size(1)) + 1, 3);
        ++pairs;
      }
    return sum / static_cast<double>(pairs);
  };
  return mean(x, x, true) + mean(y, y, true) - 2 * mean(x, y, false);
}

TEST(KernelDistance, IsItsDefinitionInTilesOfAnySize) {
  const at::Tensor x = normal_rows(1, 17, 5), y = normal_rows(2, 23, 5) * 1.5 + 0.3;
  const double expected = plain_distance(x, y);
  const KernelDistance whole = kernel_distance(x, y);
  for (const int64_t tile : {1, 4, 7, 17, 100}) {
    const KernelDistance tiled = kernel_distance(x, y, tile);
    EXPECT_NEAR(tiled.value, expected, 1e-13 * std::abs(expected)) << tile;
    EXPECT_NEAR(tiled.standard_error, whole.standard_error, 1e-12 * whole.standard_error);
  }
  EXPECT_NEAR(kernel_distance(y, x).value, expected, 1e-13 * std::abs(expected));
  EXPECT_NEAR(kernel_distance(y, x).standard_error, whole.standard_error, 1e-12);
}

// Over many fresh pairs of sets: the spread of the value is the standard error it states,
// between unlike sets (where the first order rules) and alike ones (where it vanishes).
TEST(KernelDistance, StandardErrorIsTheSpreadOverFreshSets) {
  for (const double shift : {0.0, 0.5}) {
    constexpr int kSets = 600;
    double sum = 0, squares = 0, variance = 0;
    for (int s = 0; s < kSets; ++s) {
      const auto seed = static_cast<uint64_t>(2 * s);
      const KernelDistance d = kernel_distance(normal_rows(seed, 30, 4),
                                               normal_rows(seed + 1, 45, 4) + shift);
      sum += d.value;
      squares += d.value * d.value;
      variance += d.standard_error * d.standard_error;
    }
    const double mean = sum / kSets, spread = squares / kSets - mean * mean;
    // Alike, a first order below zero counts as zero: too large, but never too small.
    EXPECT_GT(variance / kSets / spread, shift == 0 ? 1.1 : 0.8) << shift;
    EXPECT_LT(variance / kSets / spread, shift == 0 ? 1.6 : 1.25) << shift;
    if (shift == 0) {  // unbiased: 0 within four standard errors of the mean
      EXPECT_LT(std::abs(mean), 4 * std::sqrt(spread / kSets));
    }
  }
}

TEST(KernelDistance, Refusals) {
  const at::Tensor x = normal_rows(1, 10, 3);
  EXPECT_THROW(kernel_distance(x, normal_rows(1, 3, 3)), Error);
  EXPECT_THROW(kernel_distance(x, normal_rows(1, 10, 4)), Error);
  EXPECT_THROW(kernel_distance(at::Tensor(), x), Error);
  EXPECT_THROW(kernel_distance(x, at::full({10, 3}, std::nan(""))), Error);
  EXPECT_THROW(kid_subsets(x, x, {11, 2, 0}), UsageError);
  EXPECT_THROW(kid_clean_fid(x, x, {1, 2, 0}), UsageError);
}

// Constant features: every kernel value alike, nothing left over, no nan.
TEST(KernelDistance, ConstantFeatures) {
  const KernelDistance d = kernel_distance(at::ones({8, 3}), at::ones({6, 3}));
  EXPECT_NEAR(d.value, 0, 1e-13);
  EXPECT_NEAR(d.standard_error, 0, 1e-6);
  const KernelDistance apart = kernel_distance(at::ones({8, 3}), at::zeros({6, 3}));
  EXPECT_NEAR(apart.value, 8 + 1 - 2, 1e-12);
}

TEST(KernelDistance, Entries) {
  FeatureSet x, y;
  x.keep_features = y.keep_features = true;
  x.add(normal_rows(1, 40, 6));
  y.add(normal_rows(2, 50, 6) + 1);
  const auto kd = make_metric("kd64", Config());
  EXPECT_EQ(kd->layer(), "64");
  EXPECT_EQ(kd->detector(), "");
  const auto values = kd->compute(x, y);
  const KernelDistance expected = kernel_distance(x.features, y.features);
  EXPECT_EQ(values.at(0).value, expected.value);
  EXPECT_TRUE(values.at(1).detail);
  EXPECT_EQ(values.at(1).value, expected.standard_error);
  const auto kid = make_metric("kid", Config());
  EXPECT_EQ(kid->layer(), "2048");
  EXPECT_EQ(kid->detector(), "inception");
  EXPECT_EQ(make_metric("kid192", Config())->layer(), "192");
  EXPECT_THROW(make_metric("kid100", Config()), UsageError);
  const auto by_subsets = make_metric(
      "kid_subsets", Config::from_text(R"({"subset_size": 20, "subsets": 5, "seed": 3})",
                                       "test"));
  EXPECT_EQ(by_subsets->compute(x, y).at(0).value,
            kid_subsets(x.features, y.features, {20, 5, 3}).mean);
  const auto clean = make_metric(
      "kid_subsets",
      Config::from_text(
          R"({"subset_size": 20, "subsets": 5, "seed": 3, "form": "clean-fid"})", "test"));
  EXPECT_EQ(clean->compute(x, y).at(0).value,
            kid_clean_fid(x.features, y.features, {20, 5, 3}));
}

nlohmann::json stored_numbers(const std::string& key) {
  std::ifstream in(testing::metric_reference("sets.json"));
  return nlohmann::json::parse(in).at(key);
}

void check_stored_kid(const std::string& name) {
  FM_NEED_FILE(testing::metric_reference("sets.json"));
  const auto set = testing::stored_set(name);
  const auto numbers_of_set = stored_numbers("feature_sets").at(name);
  const auto near = [&](double value, double expected, double tolerance) {
    EXPECT_NEAR(value, expected, tolerance * std::abs(expected)) << name;
  };
  near(kernel_distance(set.real, set.fake).value,
       numbers_of_set.at("kid_unbiased_all_pairs"), 1e-11);
  near(kernel_distance(set.real, set.fake, 64).value,
       numbers_of_set.at("kid_unbiased_all_pairs"), 1e-11);
  const auto& stored = numbers_of_set.at("kid_torch_fidelity");
  const KidSubsetOptions options{stored.at("subset_size"), stored.at("subsets"),
                                 stored.at("rng_seed")};
  const KidSubsets subsets = kid_subsets(set.real, set.fake, options);
  const auto& numbers = stored.at("float64_features");
  near(subsets.mean, numbers.at("kernel_inception_distance_mean"), 1e-11);
  near(subsets.deviation, numbers.at("kernel_inception_distance_std"), 1e-11);
  const auto& shipped = stored.at("float32_features_as_shipped");
  near(subsets.mean, shipped.at("kernel_inception_distance_mean"), 1e-5);
  EXPECT_NEAR(subsets.deviation,
              shipped.at("kernel_inception_distance_std").get<double>(),
              1e-5 * std::abs(subsets.mean));
  // The draws themselves.
  NumpyRandom random(options.seed);
  ASSERT_EQ(set.subsets.size(0), options.subsets);
  for (int64_t k = 0; k < options.subsets; ++k)
    for (int64_t side = 0; side < 2; ++side)
      EXPECT_TRUE(at::equal(
          set.subsets[k][side].to(at::kLong),
          at::tensor(random.choice((side == 0 ? set.fake : set.real).size(0),
                                   options.subset_size),
                     at::kLong)))
          << name << " subset " << k;
  const auto& clean = numbers_of_set.at("kid_clean_fid");
  near(kid_clean_fid(set.real, set.fake,
                     {clean.at("max_subset_size"), clean.at("num_subsets"),
                      clean.at("np.random.seed")}),
       clean.at("value_float64"), 1e-11);
}

TEST(KidReference, Mixture) { check_stored_kid("mixture"); }
TEST(KidReference, Fid64) { check_stored_kid("fid64"); }
TEST(KidReference, Ties) { check_stored_kid("ties"); }
TEST(KidReference, GoldenPool3) {
  FM_NEED_FILE(testing::golden_pool3());
  check_stored_kid("golden_pool3");
}

}  // namespace
}  // namespace flowmap::metrics
