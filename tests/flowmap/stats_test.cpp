// Figures between status lines, and the line they become.
#include "flowmap/train/stats.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace flowmap {
namespace {

using nlohmann::json;

TEST(Stats, EveryElementCounts) {
  Stats stats;
  stats.add("Loss/loss", at::tensor({1.0f, 2.0f}));
  stats.add("Loss/loss", at::tensor({6.0f}));
  stats.add("Loss/loss", at::empty({0}));
  stats.add("Progress/tick", 7);
  const json line = json::parse(stats.json_line(1.5));
  EXPECT_EQ(line["Loss/loss"]["num"], 3);
  EXPECT_DOUBLE_EQ(line["Loss/loss"]["mean"].get<double>(), 3);
  EXPECT_NEAR(line["Loss/loss"]["std"].get<double>(), std::sqrt(14.0 / 3), 1e-8);
  EXPECT_EQ(line["Progress/tick"]["num"], 1);
  EXPECT_EQ(line["Progress/tick"]["std"], 0);
  EXPECT_DOUBLE_EQ(line["timestamp"].get<double>(), 1.5);
  stats.clear();
  EXPECT_TRUE(stats.moments().empty());
  EXPECT_TRUE(std::isnan(stats.mean("Loss/loss")));
}

// Rounding can make the variance a little negative; its root must not be NaN.
TEST(Stats, ConstantsHaveNoDeviation) {
  Stats stats;
  stats.add("x", at::full({1000}, 0.1, at::kDouble));
  stats.add("x", at::full({777}, 0.1, at::kDouble));
  EXPECT_NEAR(stats.moments().at("x").std(), 0, 1e-8);
}

TEST(Stats, WhatIsNotFiniteIsNull) {
  Stats stats;
  stats.add("bad", at::tensor({1.0f, NAN}));
  stats.add("huge", INFINITY);
  const json line = json::parse(stats.json_line(0));
  EXPECT_TRUE(line["bad"]["mean"].is_null());
  EXPECT_EQ(line["bad"]["num"], 2);
  EXPECT_TRUE(line["huge"]["mean"].is_null());
}

TEST(Stats, KeepsNoGraph) {
  Stats stats;
  const at::Tensor x = at::ones({2}).requires_grad_();
  stats.add("x", x * 2);
  EXPECT_EQ(stats.mean("x"), 2);
}

}  // namespace
}  // namespace flowmap
