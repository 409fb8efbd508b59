// The step search where the answer is known: Gaussian flows, two points, conversions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "flowmap/base/error.h"
#include "samplers/boss/anchors.h"
#include "samplers/boss/bellman.h"
#include "samplers/boss/search.h"
#include "samplers/boss/straightness.h"
#include "samplers/boss/student_states.h"
#include "tests/support/analytic_models.h"
#include "tests/support/diagonal_flow.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::DiagonalFlow;
using flowmap::testing::GaussianFlow;
using flowmap::testing::MixtureModel;
using Path = std::vector<int64_t>;

double rate_of(double s, double t) {
  return (t * s * s - (1 - t)) / (t * t * s * s + (1 - t) * (1 - t));
}
// What `steps` turn a unit deviation into.
double end_factor(double s, const std::vector<double>& knots) {
  double factor = 1;
  for (std::size_t i = 0; i + 1 < knots.size(); ++i)
    factor *= 1 + (knots[i + 1] - knots[i]) * rate_of(s, knots[i]);
  return factor;
}
double end_gap(const std::vector<double>& deviations, const std::vector<double>& knots) {
  double sum = 0;
  for (const double s : deviations) sum += std::pow(end_factor(s, knots) - s, 2);
  return std::sqrt(sum);
}
std::vector<double> knots_of(const Path& path, int64_t steps) {
  std::vector<double> knots;
  for (const int64_t i : path)
    knots.push_back(static_cast<double>(i) / static_cast<double>(steps));
  return knots;
}

// One sample at one deviation in every dimension, by Euler or exactly.
TeacherPath unit_path(DiagonalFlow& flow, const std::vector<double>& s, int64_t steps,
                      bool exact) {
  const Schedule anchors = anchor_grid(flow.info(), "uniform", steps);
  const auto dims = static_cast<int64_t>(s.size());
  TeacherPath path = teacher_path(flow, at::ones({1, dims}, at::kDouble), {}, anchors);
  if (!exact) return path;
  path.slopes = at::empty({steps, 1, dims}, at::kDouble);
  for (int64_t i = 0; i <= steps; ++i)
    for (int64_t d = 0; d < dims; ++d) {
      const double t = anchors.times[static_cast<std::size_t>(i)];
      const double sd = s[static_cast<std::size_t>(d)], deviation = std::hypot(t * sd, 1 - t);
      path.states[i][0][d] = deviation;
      if (i < steps) path.slopes[i][0][d] = rate_of(sd, t) * deviation;
    }
  return path;
}
CostSums costs_of(DiagonalFlow& flow, const TeacherPath& path, int64_t probes) {
  Schedule anchors;
  anchors.times = path.anchors;
  CostSums sums(path.anchors);
  record_step_costs(sums, flow, {}, anchors, path, flow.info().sample_shape,
                    {.probes = probes}, Draw(1, 0, path.states.size(1)));
  return sums;
}

TEST(BossOracle, OneStepGivesTheMean) {  // 1
  for (const double s : {0.2, 0.5, 3.0}) {
    EXPECT_NEAR(end_factor(s, {0, 1}), 0, 1e-15);
    GaussianFlow flow({1}, 0, 1, 0.7, s);
    const at::Tensor samples = make_sampler("euler", Config())->sample(
        flow, at::full({1, 1}, 1.3, at::kDouble), {}, make_schedule(flow.info(), {.steps = 1}),
        Draw(0, 0, 1));
    EXPECT_NEAR(samples.item<double>(), 0.7, 1e-12);
  }
}

TEST(BossOracle, ArctanGridIsTheOptimumOfOneGaussian) {  // 2
  const std::vector<std::pair<int64_t, double>> factors{
      {1, 1}, {2, 0.5}, {4, 0.271447}, {6, 0.18780}, {8, 0.14377}};
  for (const double s : {1.0, 0.5, 0.2, 0.1}) {
    DiagonalFlow flow({s});
    for (const auto& [k, factor] : factors) {
      const Schedule grid = arctan_grid(flow.info(), k, s);
      EXPECT_NEAR(end_gap({s}, grid.times) / s, factor, 5e-6);
      EXPECT_NEAR(end_gap({s}, grid.times) / s,
                  1 - std::pow(std::cos(std::numbers::pi / 2 / static_cast<double>(k)),
                               static_cast<double>(k)), 1e-12);
      // No neighbour is better.
      for (std::size_t i = 1; i + 1 < grid.times.size(); ++i)
        for (const double shift : {-1e-3, 1e-3}) {
          std::vector<double> moved = grid.times;
          moved[i] += shift;
          EXPECT_GT(end_gap({s}, moved), end_gap({s}, grid.times));
        }
    }
  }
  DiagonalFlow flow({0.5});
  const std::vector<double> nodes = arctan_grid(flow.info(), 4, 0.5).times;
  const std::vector<double> expected{0, 0.4531, 0.6667, 0.8284, 1};
  for (std::size_t i = 0; i < nodes.size(); ++i) EXPECT_NEAR(nodes[i], expected[i], 5e-5);
}

struct Golden {
  double s;
  int64_t steps;
  bool exact;
  Path path;
  double cost;
};

TEST(BossOracle, BellmanPathsOfOneGaussian) {  // 3
  const std::vector<Golden> goldens{
      {0.5, 20, true, {0, 14, 20}, 4.040301e-2},
      {0.5, 20, false, {0, 14, 20}, 3.077098e-2},
      {0.5, 20, true, {0, 11, 16, 20}, 1.339429e-2},
      {0.5, 20, false, {0, 11, 16, 20}, 9.042410e-3},
      {0.5, 20, true, {0, 9, 14, 17, 20}, 6.273400e-3},
      {0.5, 20, false, {0, 8, 13, 17, 20}, 3.662642e-3},
      {0.2, 20, true, {0, 17, 20}, 8.388540e-3},
      {0.2, 20, false, {0, 16, 20}, 5.420813e-3},
      {0.2, 20, true, {0, 12, 16, 18, 20}, 1.525578e-3},
      {0.2, 20, false, {0, 12, 16, 18, 20}, 6.248156e-4},
      {1.0, 20, true, {0, 11, 20}, 1.190251e-1},
      {1.0, 20, false, {0, 11, 20}, 9.194428e-2},
      {0.5, 100, false, {0, 68, 100}, 3.786160e-2},
      {0.5, 100, false, {0, 43, 66, 83, 100}, 5.291128e-3},
      {0.5, 100, false, {0, 24, 41, 54, 64, 73, 82, 91, 100}, 6.574486e-4},
      {0.1, 100, false, {0, 74, 88, 95, 100}, 3.399161e-4}};
  for (const Golden& golden : goldens) {
    DiagonalFlow flow({golden.s});
    const TeacherPath path = unit_path(flow, {golden.s}, golden.steps, golden.exact);
    const BellmanTable table(costs_of(flow, path, 0).plain(2), 8);
    const auto k = static_cast<int64_t>(golden.path.size()) - 1;
    EXPECT_EQ(table.path(k), golden.path) << golden.s << " " << golden.steps;
    EXPECT_NEAR(table.cost(0, k) / golden.cost, 1, 1e-6);
  }
  const std::vector<std::pair<double, double>> ends{
      {0.5, 0.464248}, {0.2, 0.176003}, {0.1, 0.079631}, {1.0, 0.937699}};
  for (const auto& [s, end] : ends) {
    DiagonalFlow flow({s});
    const TeacherPath path = unit_path(flow, {s}, 20, false);
    EXPECT_NEAR(path.states[20].item<double>(), end, 1e-6);
    const at::Tensor cost = costs_of(flow, path, 0).plain(2);
    for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(cost[i][i + 1].item<double>(), 0);
  }
  // The sum of local errors is not the error at the end: worse than uniform.
  EXPECT_NEAR(end_gap({1}, knots_of({0, 11, 20}, 20)), 0.50990, 1e-5);
  EXPECT_NEAR(end_gap({1}, knots_of({0, 10, 20}, 20)), 0.5, 1e-12);
}

TEST(BossOracle, LocalErrorIsOfFourthOrder) {  // 4
  const double s = 0.3, t = 0.4;
  const std::vector<std::pair<double, double>> rows{
      {0.1, 1.380}, {0.05, 1.168}, {0.025, 1.080}, {0.0125, 1.039}};
  const double curve = s * s / std::pow(std::hypot(t * s, 1 - t), 3);
  for (const auto& [h, ratio] : rows) {
    TeacherPath path;
    path.anchors = {t, t + h};
    const double from = std::hypot(t * s, 1 - t), to = std::hypot((t + h) * s, 1 - t - h);
    path.states = at::tensor({from, to}, at::kDouble).reshape({2, 1, 1});
    path.slopes = at::tensor({rate_of(s, t) * from}, at::kDouble).reshape({1, 1, 1});
    CostSums sums(path.anchors);
    sums.add_euler_steps(path);
    EXPECT_NEAR(sums.plain(2)[0][1].item<double>() / (curve * curve * std::pow(h, 4) / 4),
                ratio, 2e-3);
  }
}

TEST(BossOracle, KnotsFollowTheDensity) {  // 5
  const double s = 0.3;
  DiagonalFlow flow({s});
  const BellmanTable table(costs_of(flow, unit_path(flow, {s}, 400, true), 0).plain(2), 16);
  // Quantiles of a density proportional to sig^-3/2.
  constexpr int kFine = 200000;
  std::vector<double> mass{0};
  for (int i = 0; i < kFine; ++i) {
    const double t = (i + 0.5) / kFine;
    mass.push_back(mass.back() + std::pow(std::hypot(t * s, 1 - t), -1.5));
  }
  const Path path = table.path(16);
  for (std::size_t k = 0; k < path.size(); ++k) {
    const double target = mass.back() * static_cast<double>(k) / 16;
    const auto above = std::lower_bound(mass.begin(), mass.end(), target);
    const double quantile = static_cast<double>(above - mass.begin()) / kFine;
    EXPECT_NEAR(static_cast<double>(path[k]) / 400, quantile, 0.011) << k;
  }
}

// Errors carried to the end: exact, and what they make of the path.
TEST(BossOracle, CarriedErrorsAreThoseAtTheEnd) {
  const std::vector<double> s{1, 0.1};
  DiagonalFlow flow(s);
  const TeacherPath path = unit_path(flow, s, 20, false);
  const CostSums sums = costs_of(flow, path, 2);  // as many directions as dimensions: exact
  const at::Tensor carried = sums.carried(2);
  for (int64_t i = 0; i < 20; ++i)
    for (int64_t j = i + 1; j <= 20; ++j) {
      double expected = 0;
      for (int64_t d = 0; d < 2; ++d) {
        const auto x = [&](int64_t k) { return path.states[k][0][d].item<double>(); };
        const double t = path.anchors[static_cast<std::size_t>(i)];
        const double h = path.anchors[static_cast<std::size_t>(j)] - t;
        const double error = x(j) - x(i) * (1 + h * rate_of(s[static_cast<std::size_t>(d)], t));
        expected += std::pow(error * x(20) / x(j), 2);  // the Euler path's own growth
      }
      EXPECT_NEAR(carried[i][j].item<double>(), expected, 1e-13) << i << " " << j;
    }
  EXPECT_LT((sums.carried(1).square() - carried).abs().max().item<double>(), 1e-14);
  // Random directions agree on average over many samples of one error.
  const int64_t many = 20000;
  const Schedule anchors = anchor_grid(flow.info(), "uniform", 6);
  const TeacherPath wide =
      teacher_path(flow, at::ones({many, 2}, at::kDouble), {}, anchors);
  CostSums random(anchors.times), exact(anchors.times);
  record_step_costs(random, flow, {}, anchors, wide, {2}, {.probes = 1}, Draw(1, 0, many));
  record_step_costs(exact, flow, {}, anchors, wide, {2}, {.probes = 2}, Draw(1, 0, many));
  const double close = (random.carried(2) / exact.carried(2).clamp_min(1e-300))[0][6]
                           .item<double>();
  EXPECT_NEAR(close, 1, 0.05);
}

TEST(BossOracle, SensitivityReachesTheOptimumOfOneGaussian) {  // 5
  for (const double s : {1.0, 0.5, 0.2, 0.1}) {
    DiagonalFlow flow({s});
    const CostSums sums = costs_of(flow, unit_path(flow, {s}, 100, true), 1);
    const BellmanTable plain(sums.plain(2), 8), carried(sums.carried(1), 8);
    for (const int64_t k : {2, 4, 6, 8}) {
      const double bound = end_gap({s}, arctan_grid(flow.info(), k, s).times);
      const double ours = end_gap({s}, knots_of(carried.path(k), 100));
      EXPECT_GE(ours, bound * (1 - 1e-12));
      // To the resolution of the grid, which is coarse where s is small.
      EXPECT_LT(ours, bound * (s < 0.3 ? 1.05 : 1.005)) << s << " " << k;
      EXPECT_LE(ours, end_gap({s}, knots_of(plain.path(k), 100)) * (1 + 1e-3));
    }
  }
  DiagonalFlow flow({1.0});
  const CostSums sums = costs_of(flow, unit_path(flow, {1.0}, 100, true), 1);
  EXPECT_NEAR(end_gap({1}, knots_of(BellmanTable(sums.carried(1), 4).path(4), 100)), .27149,
              2e-5);
  EXPECT_NEAR(end_gap({1}, knots_of(BellmanTable(sums.plain(2), 4).path(4), 100)), .27349,
              2e-5);
}

TEST(BossOracle, TwoDimensions) {  // 6
  const std::vector<double> s{1, 0.1};
  DiagonalFlow flow(s);
  const CostSums sums = costs_of(flow, unit_path(flow, s, 20, true), 2);
  const BellmanTable plain(sums.plain(2), 4), carried(sums.carried(1), 4);
  const std::vector<Path> local{{0, 11, 20}, {0, 8, 14, 20}, {0, 6, 11, 15, 20}};
  const std::vector<Path> at_end{{0, 10, 20}, {0, 7, 12, 20}, {0, 6, 10, 14, 20}};
  const std::vector<double> costs{.1267571, .04249006, .02066096};
  const std::vector<double> errors{.51743, .36770, .28644}, weighted{.50805, .36335, .28254};
  for (std::size_t i = 0; i < 3; ++i) {
    const auto k = static_cast<int64_t>(i) + 2;
    EXPECT_EQ(plain.path(k), local[i]);
    EXPECT_NEAR(plain.cost(0, k) / costs[i], 1, 1e-6);
    EXPECT_NEAR(end_gap(s, knots_of(plain.path(k), 20)), errors[i], 1e-5);
    EXPECT_EQ(carried.path(k), at_end[i]);
    EXPECT_NEAR(end_gap(s, knots_of(carried.path(k), 20)), weighted[i], 1e-5);
  }
}

TEST(BossOracle, StructureOfTheTable) {  // 7
  const int64_t n = 9;
  const at::Tensor cost = Draw(2, 0, 1).uniform("costs", {n, n})[0].to(at::kDouble);
  const BellmanTable table(cost, n - 1);
  // All subsets of the anchors between.
  for (int64_t k = 1; k < n; ++k) {
    double best = INFINITY;
    for (int mask = 0; mask < 1 << (n - 2); ++mask) {
      Path path{0};
      for (int64_t i = 1; i < n - 1; ++i)
        if (mask >> (i - 1) & 1) path.push_back(i);
      path.push_back(n - 1);
      if (static_cast<int64_t>(path.size()) != k + 1) continue;
      double total = 0;
      for (std::size_t i = 0; i + 1 < path.size(); ++i)
        total += cost[path[i]][path[i + 1]].item<double>();
      best = std::min(best, total);
    }
    EXPECT_NEAR(table.cost(0, k), best, 1e-14) << k;
  }
  EXPECT_EQ(table.path(1), (Path{0, n - 1}));
  EXPECT_EQ(table.path(n - 1), (Path{0, 1, 2, 3, 4, 5, 6, 7, 8}));
  // A constant or a factor moves no path.
  const BellmanTable moved(cost * 3 + 0.7, n - 1);
  for (int64_t k = 1; k < n; ++k) EXPECT_EQ(moved.path(k), table.path(k));
  // Ties go to the first.
  const BellmanTable flat(at::ones({6, 6}, at::kDouble), 3);
  EXPECT_EQ(flat.path(3), (Path{0, 1, 2, 5}));
  // More steps than fit, and steps that may not be taken.
  const BellmanTable small(at::ones({4, 4}, at::kDouble), 5);
  EXPECT_TRUE(std::isinf(small.cost(0, 4)));
  EXPECT_FALSE(small.feasible(4));
  try {
    small.path(4);
    FAIL() << "accepted";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("1 to 3"));
  }
  at::Tensor barred = at::ones({4, 4}, at::kDouble);
  barred[0][3] = INFINITY;
  EXPECT_FALSE(BellmanTable(barred, 2).feasible(1));
  EXPECT_TRUE(BellmanTable(barred, 2).feasible(2));
  barred[0][1] = NAN;
  EXPECT_THROW(BellmanTable(barred, 2), Error);
}

TEST(BossOracle, GramPathEqualsTheNaiveOne) {  // 7
  const int64_t steps = 24, batch = 5, d = 40000;  // more than one block of columns
  TeacherPath path;
  for (int64_t i = 0; i <= steps; ++i)
    path.anchors.push_back(std::pow(static_cast<double>(i) / steps, 1.3));
  // Trajectories that are nearly straight and far from 0, as real ones.
  const Draw draw(4, 0, batch);
  const at::Tensor a = draw.normal("a", {d}).to(at::kDouble) * 30,
                   b = draw.normal("b", {d}).to(at::kDouble) * 20,
                   c = draw.normal("c", {d}).to(at::kDouble) * 0.05;
  path.states = at::empty({steps + 1, batch, d}, at::kDouble);
  for (int64_t i = 0; i <= steps; ++i) {
    const double t = path.anchors[static_cast<std::size_t>(i)];
    path.states[i].copy_(a + t * b + std::sin(2 * t) * c);
  }
  const auto naive = [&](const TeacherPath& p) {
    at::Tensor cost = at::zeros({steps + 1, steps + 1}, at::kDouble);
    for (int64_t i = 0; i < steps; ++i)
      for (int64_t j = i + 1; j <= steps; ++j) {
        const double h = p.anchors[static_cast<std::size_t>(j)] -
                         p.anchors[static_cast<std::size_t>(i)];
        cost[i][j] =
            (p.states[j] - p.states[i] - h * p.slope(i)).square().sum(1).mean();
      }
    return cost;
  };
  CostSums sums(path.anchors);
  sums.add_euler_steps(path);
  const at::Tensor expected = naive(path);
  EXPECT_LT(((sums.plain(2) - expected).abs() / expected.max()).max().item<double>(), 1e-12);
  // With slopes of another teacher.
  TeacherPath sloped = path;
  sloped.slopes = at::empty({steps, batch, d}, at::kDouble);
  for (int64_t i = 0; i < steps; ++i)
    sloped.slopes[i].copy_(
        b + 2 * std::cos(2 * path.anchors[static_cast<std::size_t>(i)]) * c);
  CostSums with_slopes(path.anchors);
  with_slopes.add_euler_steps(sloped);
  const at::Tensor exact = naive(sloped);
  EXPECT_LT(((with_slopes.plain(2) - exact).abs() / exact.max()).max().item<double>(), 1e-12);
  // Straight lines cost nothing, whatever is added that is affine in time costs nothing.
  TeacherPath straight = path;
  for (int64_t i = 0; i <= steps; ++i)
    straight.states[i].copy_(a + path.anchors[static_cast<std::size_t>(i)] * b);
  CostSums none(path.anchors);
  none.add_euler_steps(straight);
  EXPECT_LT((none.plain(2) / a.square().sum(1).mean()).max().item<double>(), 1e-22);
}

TEST(BossOracle, SumsOfPartsAreTheSumOfAll) {
  DiagonalFlow flow({1, 0.3});
  const Schedule anchors = anchor_grid(flow.info(), "uniform", 12);
  const at::Tensor z = Draw(3, 0, 9).normal("z", {2}).to(at::kDouble);
  const auto record = [&](int64_t first, int64_t count) {
    CostSums sums(anchors.times);
    const TeacherPath path = teacher_path(flow, z.narrow(0, first, count), {}, anchors);
    record_step_costs(sums, flow, {}, anchors, path, {2}, {.probes = 1},
                      Draw(7, static_cast<std::uint64_t>(first), count));
    return sums;
  };
  CostSums parts = record(0, 4);
  parts.merge(record(4, 5));
  const CostSums whole = record(0, 9);
  EXPECT_EQ(parts.samples(), 9);
  EXPECT_LT((parts.plain(2) - whole.plain(2)).abs().max().item<double>(), 1e-15);
  EXPECT_LT((parts.plain(1) - whole.plain(1)).abs().max().item<double>(), 1e-15);
  EXPECT_LT((parts.carried(2) - whole.carried(2)).abs().max().item<double>(), 1e-15);
  CostSums other(anchor_grid(flow.info(), "logit", 12).times);
  EXPECT_THROW(parts.merge(other), UsageError);
}

TEST(BossOracle, NaturalSpectrum) {  // 8
  const auto spectrum = [](double scale, int most) {
    std::vector<double> s;
    for (int f = 1; f <= most; ++f)
      for (int n = 0; n < f; ++n) s.push_back(scale / f);
    return s;
  };
  // Multiplicity f as a factor sqrt(f) of one dimension: the same sums of squares.
  const auto table = [](double scale, int most, bool weighted) {
    std::vector<double> s;
    for (int f = 1; f <= most; ++f) s.push_back(scale / f);
    DiagonalFlow flow(s);
    const Schedule anchors = anchor_grid(flow.info(), "uniform", 100);
    at::Tensor start = at::arange(1, most + 1, at::kDouble).sqrt().unsqueeze(0);
    const TeacherPath path = teacher_path(flow, start, {}, anchors);
    return BellmanTable(weighted ? costs_of(flow, path, most).carried(1)
                                 : costs_of(flow, path, 0).plain(2), 8);
  };
  const auto error = [&](double scale, int most, const std::vector<double>& knots) {
    return end_gap(spectrum(scale, most), knots);
  };
  std::vector<double> eighths;
  for (int i = 0; i <= 8; ++i) eighths.push_back(i / 8.0);
  const Path boss = table(16, 128, false).path(8), carried = table(16, 128, true).path(8);
  EXPECT_EQ(carried, (Path{0, 3, 8, 18, 36, 59, 79, 91, 100}));
  EXPECT_NEAR(error(16, 128, knots_of(boss, 100)), 11.27, 0.05);
  EXPECT_NEAR(error(16, 128, knots_of(carried, 100)), 8.85, 0.01);
  const Path uniform{0, 12, 25, 38, 50, 62, 75, 88, 100};
  EXPECT_NEAR(error(16, 128, knots_of(uniform, 100)), 12.64, 0.01);
  // Where plain costs lose to uniform steps, carried ones do not.
  EXPECT_GT(error(4, 16, knots_of(table(4, 16, false).path(8), 100)), 1.449);
  EXPECT_NEAR(error(4, 16, eighths), 1.4490, 1e-3);
  EXPECT_NEAR(error(4, 16, knots_of(table(4, 16, true).path(8), 100)), 1.3961, 5e-3);
}

TEST(BossOracle, TwoPoints) {  // 13
  MixtureModel model(ModelKind::velocity, {1}, at::full({2}, 0.5, at::kDouble),
                     at::tensor({-1.0, 1.0}, at::kDouble).unsqueeze(1),
                     at::zeros({2}, at::kDouble));
  const auto walk = [&](int64_t n) {
    const Schedule schedule = anchor_grid(model.info(), "uniform", n);
    return teacher_path(model, at::full({1, 1}, 0.3, at::kDouble), {}, schedule)
        .states[n].item<double>();
  };
  EXPECT_NEAR(walk(1), 0, 1e-15);
  EXPECT_NEAR(walk(2), 0.2913126124515909, 1e-13);
  EXPECT_NEAR(walk(4), 0.9967127786688268, 1e-13);
  EXPECT_NEAR(walk(20), 1, 1e-12);
}

TEST(BossOracle, DenoisersInSigmaAreFlowsInTime) {  // 19
  const auto w = at::ones({1}, at::kDouble);
  const auto m = at::full({1, 1}, 0.4, at::kDouble), c = at::full({1}, 0.5, at::kDouble);
  MixtureModel denoiser(ModelKind::denoiser, {1}, w, m, c),
      flow(ModelKind::velocity, {1}, w, m, c);
  denoiser.set_sigma_range(0.002, 80);
  const Schedule sigmas = anchor_grid(denoiser.info(), "edm", 30);
  Schedule times;
  times.times = times_of(denoiser.info(), sigmas);
  const at::Tensor z = Draw(1, 0, 6).normal("z", {1}).to(at::kDouble);
  const TeacherPath in_sigma = teacher_path(denoiser, z, {}, sigmas);
  // The flow starts at time t_0 > 0 with the same state: x_t = t x_sigma.
  TeacherPath in_time;
  in_time.anchors = times.times;
  in_time.states = at::empty_like(in_sigma.states);
  at::Tensor x = in_sigma.states[0] * times.times[0];
  Context context;
  for (std::size_t i = 0; i < times.times.size(); ++i) {
    in_time.states[static_cast<int64_t>(i)].copy_(x);
    const at::Tensor scaled = in_sigma.states[static_cast<int64_t>(i)] * times.times[i];
    EXPECT_LT((x - scaled).abs().max().item<double>(), 1e-12) << i;
    if (i + 1 < times.times.size())
      x = x + (times.times[i + 1] - times.times[i]) *
                  flow.velocity(x, at::full({6}, times.times[i], at::kDouble), {}, context)
                      .value;
  }
  // And so do their costs, with the scale of the time.
  CostSums a(in_sigma.anchors, times.times), b(in_time.anchors);
  a.add_euler_steps(in_sigma);
  b.add_euler_steps(in_time);
  const double largest = b.plain(2).max().item<double>();
  EXPECT_LT((a.plain(2) - b.plain(2)).abs().max().item<double>(), 1e-11 * largest);
}

TEST(BossTeacher, SolversAgreeAndRefuseNaN) {
  GaussianFlow flow({2}, 0, 1, 0.3, 0.4);
  const Schedule anchors = anchor_grid(flow.info(), "uniform", 40);
  const at::Tensor z = Draw(1, 0, 4).normal("z", {2}).to(at::kDouble);
  const at::Tensor heun =
      teacher_path(flow, z, {}, anchors, {.solver = TeacherOptions::Solver::heun,
                                          .substeps = 8}).states;
  const TeacherPath rk45 =
      teacher_path(flow, z, {}, anchors, {.solver = TeacherOptions::Solver::rk45});
  EXPECT_LT((heun - rk45.states).abs().max().item<double>(), 3e-5);
  EXPECT_EQ(rk45.slopes.size(0), 40);
  const auto coarse = teacher_path(flow, z, {}, anchors).states[40];
  const auto fine = teacher_path(flow, z, {}, anchors, {.substeps = 8}).states[40];
  EXPECT_LT((fine - heun[40]).abs().max().item<double>(),
            0.2 * (coarse - heun[40]).abs().max().item<double>());
  at::Tensor broken = z.clone();
  broken[2][1] = NAN;
  try {
    teacher_path(flow, broken, {}, anchors);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("row 2"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("not finite"));
  }
}

// The error of a Heun step of the size of the teacher's own is 0; of larger ones it is the
// difference of a step by the sampler.
TEST(BossHeun, CostsAreThoseOfTheSampler) {
  GaussianFlow flow({2}, 0, 1, 0.3, 0.4);
  const Schedule anchors = anchor_grid(flow.info(), "uniform", 8);
  const at::Tensor z = Draw(1, 0, 3).normal("z", {2}).to(at::kDouble);
  const TeacherPath path =
      teacher_path(flow, z, {}, anchors, {.solver = TeacherOptions::Solver::heun});
  CostSums sums(anchors.times);
  record_step_costs(sums, flow, {}, anchors, path, {2},
                    {.solver = StepSolver::heun, .probes = 2}, Draw(1, 0, 3));
  const at::Tensor cost = sums.plain(2);
  for (int64_t i = 0; i < 8; ++i) EXPECT_LT(cost[i][i + 1].item<double>(), 1e-28);
  const at::Tensor one = make_sampler("heun", Config())->sample(
      flow, z, {}, anchor_grid(flow.info(), "uniform", 1), Draw(0, 0, 3));
  EXPECT_NEAR(cost[0][8].item<double>(), (one - path.states[8]).square().sum(1).mean()
                                             .item<double>(), 1e-13);
  // A step that ends at the end needs no carrying.
  EXPECT_NEAR(sums.carried(2)[0][8].item<double>(), cost[0][8].item<double>(), 1e-13);
  EXPECT_EQ(steps_of_budget(flow.info(), StepSolver::heun, 6, 8), 3);
  EXPECT_THROW(steps_of_budget(flow.info(), StepSolver::heun, 5, 8), UsageError);
  EXPECT_THROW(steps_of_budget(flow.info(), StepSolver::euler, 9, 8), UsageError);
}

// What the search keeps is never worse than uniform steps, and says which it kept.
TEST(BossSearch, NeverWorseThanUniform) {
  MixtureModel model(ModelKind::velocity, {2}, at::full({3}, 1 / 3.0, at::kDouble),
                     at::tensor({-1.5, 0.2, 1.1, 1.0, 0.4, -1.3}, at::kDouble).reshape({3, 2}),
                     at::tensor({0.1, 0.3, 0.2}, at::kDouble));
  const Schedule anchors = anchor_grid(model.info(), "uniform", 60);
  const auto batch = [&](std::uint64_t first) {
    std::vector<std::uint64_t> seeds;
    for (std::uint64_t i = 0; i < 64; ++i) seeds.push_back(first + i);
    return search_batch(model.info(), seeds, {}, 1, at::kDouble);
  };
  const SearchBatch train = batch(0);
  CostSums sums(anchors.times);
  record_step_costs(sums, model, {}, anchors, teacher_path(model, train.latents, {}, anchors),
                    {2}, {.probes = 2}, train.draw);
  const std::vector<SearchBatch> check{batch(1000)};
  const EndError error(model, check, anchors, {.solver = TeacherOptions::Solver::heun});
  const std::vector<int64_t> budgets{1, 2, 3, 4, 6, 8, 10};
  int better = 0;
  for (const ScheduleBudget& budget :
       choose_schedules(model.info(), sums, anchors, budgets, StepSolver::euler, 0, error)) {
    Schedule kept;
    kept.times = budget.knots;
    kept.source = budget.method;
    const double ours = error(kept, StepSolver::euler);
    const double uniform =
        error(anchor_grid(model.info(), "uniform", budget.steps), StepSolver::euler);
    EXPECT_LE(ours, uniform) << budget.nfe;
    EXPECT_EQ(budget.method == "uniform", budget.candidates[0].rmse <= ours) << budget.nfe;
    EXPECT_EQ(budget.candidates.size(), 5u);
    better += ours < 0.95 * uniform;
  }
  EXPECT_GE(better, 3);
}

TEST(BossAnchors, GridsRunFromNoiseToData) {
  GaussianFlow flow({2}, 0, 1, 0.3, 0.4);
  MixtureModel denoiser(ModelKind::denoiser, {1}, at::ones({1}, at::kDouble),
                        at::zeros({1, 1}, at::kDouble), at::ones({1}, at::kDouble));
  denoiser.set_sigma_range(0.002, 80);
  for (const std::string& name : anchor_grid_names()) {
    const Schedule time = anchor_grid(flow.info(), name, 10);
    EXPECT_EQ(time.times.front(), 0);
    EXPECT_EQ(time.times.back(), 1);
    EXPECT_TRUE(std::is_sorted(time.times.begin(), time.times.end()));
    const Schedule sigma = anchor_grid(denoiser.info(), name, 10);
    EXPECT_TRUE(sigma.sigma);
    EXPECT_NEAR(sigma.times.front(), 80, 1e-9);
    EXPECT_EQ(sigma.times.back(), 0);
    EXPECT_TRUE(std::is_sorted(sigma.times.rbegin(), sigma.times.rend()));
    EXPECT_EQ(sigma.times.size(), 11u);
  }
  EXPECT_NEAR(anchor_grid(flow.info(), "logit", 2).times[1], 0.5, 1e-12);
  EXPECT_THROW(anchor_grid(flow.info(), "cosine", 4), UsageError);
}

}  // namespace
}  // namespace flowmap::samplers
