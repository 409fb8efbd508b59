#include "metrics/inception_score.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/base/error.h"
#include "metrics/metric.h"
#include "metrics/numpy_random.h"
#include "tests/metrics/sets_reference.h"

namespace flowmap::metrics {
namespace {

// One class each with certainty: as many as there are classes; all alike: 1.
TEST(InceptionScore, Extremes) {
  const at::Tensor sure = at::eye(5).repeat({4, 1}) * 1000;
  EXPECT_NEAR(inception_score(sure, {1, false, 0}).mean, 5, 1e-12);
  // Four classes that no row gives at all: probability 0 in every row.
  EXPECT_NEAR(inception_score(sure.narrow(0, 0, 1).repeat({6, 1}), {2, false, 0}).mean, 1,
              1e-12);
  EXPECT_NEAR(inception_score(at::ones({20, 5}), {4, true, 1}).mean, 1, 1e-12);
  EXPECT_NEAR(inception_score(at::ones({20, 5}) * 1e4, {4, true, 1}).deviation, 0, 1e-12);
}

TEST(InceptionScore, Refusals) {
  EXPECT_THROW(inception_score(at::ones({3, 5}), {4, true, 1}), UsageError);
  EXPECT_THROW(inception_score(at::ones({3}), {1, true, 1}), Error);
  EXPECT_THROW(inception_score(at::full({3, 2}, std::nan("")), {1, true, 1}), Error);
}

TEST(InceptionScore, Entries) {
  const auto is = make_metric("is", Config());
  EXPECT_EQ(is->detector(), "inception");
  EXPECT_EQ(is->layer(), "logits_unbiased");
  EXPECT_FALSE(is->needs_reference());
  const auto cs = make_metric(
      "cs", Config::from_text(R"({"layer": "logits10", "splits": 2})", "test"));
  EXPECT_EQ(cs->detector(), "");
  EXPECT_EQ(cs->layer(), "logits10");
  FeatureSet set;
  set.keep_features = true;
  set.add(at::eye(4).repeat({3, 1}) * 3);
  const auto values = cs->compute({}, set);
  const InceptionScore expected = inception_score(set.features, {2, true, 2020});
  EXPECT_EQ(values.at(0).value, expected.mean);
  EXPECT_EQ(values.at(1).value, expected.deviation);
  EXPECT_TRUE(values.at(1).detail);
}

nlohmann::json stored_numbers(const std::string& key) {
  std::ifstream in(testing::metric_reference("sets.json"));
  return nlohmann::json::parse(in).at(key);
}

TEST(InceptionScoreReference, AllCases) {
  FM_NEED_FILE(testing::metric_reference("sets.json"));
  const auto cases = stored_numbers("inception_score");
  const auto tensors = load_tensors(testing::metric_reference("sets.safetensors"));
  int checked = 0;
  for (const auto& [name, item] : cases.items()) {
    if (name == "note") continue;
    const at::Tensor logits = tensors.at("logits/" + name);
    EXPECT_TRUE(at::equal(
        tensors.at("logits/" + name + "/permutation_seed_2020").to(at::kLong),
        at::tensor(NumpyRandom(2020).permutation(logits.size(0)), at::kLong)))
        << name;
    for (const auto& [how, numbers] : item.at("torch_fidelity").items()) {
      InceptionScoreOptions options;
      options.splits = std::stoll(how.substr(how.find('=') + 1));
      options.shuffle = how.find("no shuffle") == std::string::npos;
      const InceptionScore score = inception_score(logits, options);
      EXPECT_NEAR(score.mean, numbers.at("inception_score_mean").get<double>(), 1e-9)
          << name << ", " << how;
      EXPECT_NEAR(score.deviation, numbers.at("inception_score_std").get<double>(), 1e-9)
          << name << ", " << how;
      ++checked;
    }
  }
  EXPECT_EQ(checked, 18);
}

}  // namespace
}  // namespace flowmap::metrics
