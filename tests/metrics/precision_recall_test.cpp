#include "metrics/precision_recall.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "metrics/metric.h"
#include "tests/metrics/sets_reference.h"

namespace flowmap::metrics {
namespace {

// Reference at 0, 1, 2, 3 on a line (radius 1 with k = 1), generated at 0.5 and 10, 11.
TEST(PrecisionRecall, OnALine) {
  const at::Tensor real = at::arange(4, at::kFloat).view({4, 1});
  const at::Tensor fake = at::tensor({0.5, 10.0, 11.0}).view({3, 1});
  const PrecisionRecall closed = precision_recall(real, fake, 1, true);
  EXPECT_DOUBLE_EQ(closed.precision, 1.0 / 3);
  // The ball of 0.5 reaches 9.5 to 10: all of the reference.
  EXPECT_DOUBLE_EQ(closed.recall, 1);
  EXPECT_DOUBLE_EQ(closed.density, 2.0 / 3);
  EXPECT_DOUBLE_EQ(closed.coverage, 0.5);
}

TEST(PrecisionRecall, TheSphereCountsOrNot) {
  const at::Tensor real = at::tensor({0.0, 1.0}).view({2, 1});
  const at::Tensor fake = at::tensor({2.0, 3.0}).view({2, 1});
  EXPECT_EQ(precision_recall(real, fake, 1, true).precision, 0.5);
  EXPECT_EQ(precision_recall(real, fake, 1, false).precision, 0);
}

// Collapse onto one reference image and a set of one image alone.
TEST(PrecisionRecall, DuplicatesAndConstants) {
  const at::Tensor real = Draw(1, 0, 30).normal("pr_test", {5});
  const at::Tensor collapsed = real.narrow(0, 3, 1).repeat({40, 1});
  const PrecisionRecall result = precision_recall(real, collapsed, 3, true);
  EXPECT_EQ(result.precision, 1);
  EXPECT_DOUBLE_EQ(result.recall, 1.0 / 30);
  const at::Tensor constant = at::ones({20, 5});
  EXPECT_EQ(precision_recall(constant, constant, 3, true).recall, 1);
  EXPECT_EQ(precision_recall(constant, constant, 3, false).recall, 0);
}

TEST(PrecisionRecall, Refusals) {
  const at::Tensor x = at::ones({4, 3});
  EXPECT_THROW(precision_recall(x, x, 4, true), Error);
  EXPECT_THROW(precision_recall(x, at::Tensor(), 1, true), Error);
  EXPECT_THROW(precision_recall(x, x, 0, true), UsageError);
}

TEST(PrecisionRecall, Entries) {
  FeatureSet x, y;
  x.keep_features = y.keep_features = true;
  x.add(Draw(1, 0, 40).normal("x", {3}).round());
  y.add(Draw(2, 0, 50).normal("y", {3}).round());
  const auto values = [&](const char* name, const char* options) {
    return make_metric(name, Config::from_text(options, "test"))->compute(x, y);
  };
  const auto expect = [&](int64_t k, bool inclusive) {
    return precision_recall(x.features, y.features, k, inclusive);
  };
  EXPECT_EQ(values("pr", "{}").at(0).name, "precision");
  EXPECT_EQ(values("pr", "{}").at(0).value, expect(3, true).precision);
  EXPECT_EQ(values("pr", "{}").at(1).value, expect(3, true).recall);
  EXPECT_EQ(values("pr7", "{}").at(1).value, expect(7, true).recall);
  EXPECT_EQ(values("pr", R"({"rule": "<"})").at(1).value, expect(3, false).recall);
  EXPECT_EQ(values("prdc", "{}").at(0).name, "density");
  EXPECT_EQ(values("prdc", "{}").at(0).value, expect(5, false).density);
  EXPECT_EQ(values("prdc3", R"({"rule": "<="})").at(1).value, expect(3, true).coverage);
  EXPECT_NE(expect(3, true).recall, expect(3, false).recall);
  EXPECT_THROW(make_metric("pr", Config::from_text(R"({"rule": "="})", "test")),
               UsageError);
}

nlohmann::json stored_numbers(const std::string& key) {
  std::ifstream in(testing::metric_reference("sets.json"));
  return nlohmann::json::parse(in).at(key);
}

void check_stored_manifolds(const std::string& name) {
  FM_NEED_FILE(testing::metric_reference("sets.json"));
  const auto set = testing::stored_set(name);
  const auto stored = stored_numbers("feature_sets").at(name);
  for (const int64_t k : {3, 5})
    for (const bool inclusive : {true, false}) {
      const PrecisionRecall ours = precision_recall(set.real, set.fake, k, inclusive);
      const std::string of_k = "k=" + std::to_string(k);
      // Ratios of exact counts: what the last bit of a division leaves.
      const auto check = [&](const char* part, double value, const nlohmann::json& numbers,
                             double tolerance) {
        if (!numbers.contains(part)) return;
        EXPECT_NEAR(value, numbers.at(part).get<double>(), tolerance)
            << name << " " << of_k << (inclusive ? " <= " : " < ") << part;
      };
      const auto all = [&](const nlohmann::json& numbers, double tolerance) {
        check("precision", ours.precision, numbers, tolerance);
        check("recall", ours.recall, numbers, tolerance);
        check("density", ours.density, numbers, tolerance);
        check("coverage", ours.coverage, numbers, tolerance);
      };
      const auto& direct = stored.at("float64_direct").at(of_k);
      all(direct.at(inclusive ? "<=" : "<"), 1e-15 * 4);
      if (inclusive)
        all(stored.at("precision_recall_torch_fidelity").at(of_k), 1e-7);
      else
        all(stored.at("prdc").at(of_k), 1e-15 * 4);
    }
}

TEST(PrecisionRecallReference, Mixture) { check_stored_manifolds("mixture"); }
TEST(PrecisionRecallReference, Fid64) { check_stored_manifolds("fid64"); }
TEST(PrecisionRecallReference, Ties) { check_stored_manifolds("ties"); }
TEST(PrecisionRecallReference, GoldenPool3) {
  FM_NEED_FILE(testing::golden_pool3());
  check_stored_manifolds("golden_pool3");
}

}  // namespace
}  // namespace flowmap::metrics
