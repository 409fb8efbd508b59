// Closed forms of reflow on Gaussians: annealed couplings, straight flows, fixed points.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "distill/reflow/annealing.h"
#include "distill/reflow/losses.h"
#include "flowmap/interpolant.h"
#include "flowmap/ops.h"
#include "flowmap/train/ema.h"
#include "samplers/euler_paths.h"
#include "tests/support/analytic_models.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using testing::difference;

constexpr int64_t kRows = 200'000;

// n, fresh and y = m + s n: pairs of the straight coupling.
struct Bundle {
  at::Tensor noise, fresh;
  explicit Bundle(int64_t rows = kRows) {
    const Draw draw(5, 0, rows);
    noise = draw.normal("n", {1}).to(at::kDouble);
    fresh = draw.normal("fresh", {1}).to(at::kDouble);
  }
};

// N(0,1) to N(m, s^2) with correlation rho: v = m + (cov/sig^2)(x - t m).
class CoupledGaussian : public testing::AnalyticModel {
 public:
  CoupledGaussian(double m, double s, double rho)
      : AnalyticModel({.kind = ModelKind::velocity, .sample_shape = {1}}),
        m_(m), s_(s), rho_(rho) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition&, Context&) override {
    const at::Tensor time = column_like(t.value, x.value), rest = 1 - time;
    const at::Tensor variance = time.square() * (s_ * s_) + rest.square() +
                                2 * rho_ * s_ * time * rest;
    const at::Tensor cov = time * (s_ * s_) - rest + rho_ * s_ * (1 - 2 * time);
    return m_ + cov / variance * (x.value - time * m_);
  }

 private:
  double m_, s_, rho_;
};

double correlation(const at::Tensor& a, const at::Tensor& b) {
  return ((a - a.mean()) * (b - b.mean())).mean().item<double>() /
         (a.std(false) * b.std(false)).item<double>();
}

TEST(ReflowOracle, AnnealedNoiseKeepsItsLaw) {
  const Bundle bundle;
  for (const double beta : {0.25, 0.5, 0.9, 1.0}) {
    const at::Tensor mixed = annealed_noise(bundle.noise, bundle.fresh, beta);
    EXPECT_NEAR(mixed.var(false).item<double>(), 1, 0.01) << beta;
    EXPECT_NEAR(correlation(mixed, bundle.noise), std::sqrt(1 - beta * beta), 0.006) << beta;
    EXPECT_NEAR(correlation(mixed, bundle.fresh), beta, 0.006) << beta;
  }
  EXPECT_TRUE(at::equal(annealed_noise(bundle.noise, bundle.fresh, 0), bundle.noise));
}

// With the coupling's own velocity the loss is its irreducible part, s beta asin(beta); the
// straightness of that flow closes Liu's identity S + V = 2 s (1 - rho).
TEST(ReflowOracle, AnnealedCoupling) {
  const Bundle bundle;
  const double s = 0.5, m = 0.3;
  const struct { double beta, loss, straightness; } rows[] = {
      {1, .78539816, .21460184}, {.9, .50389628, .06021382}, {.75, .31802328, .02053889},
      {.5, .13089969, .00307490}, {.25, .03158503, .00016913}, {0, 0, 0}};
  Context context;
  for (const auto& row : rows) {
    SCOPED_TRACE(row.beta);
    const double rho = std::sqrt(1 - row.beta * row.beta);
    CoupledGaussian flow(m, s, rho);
    const at::Tensor x0 = annealed_noise(bundle.noise, bundle.fresh, row.beta);
    const at::Tensor y = m + s * bundle.noise;
    const at::Tensor t = (at::arange(kRows, at::kDouble) + 0.5) / kRows;
    const Interpolated at_t = interpolate(y, x0, t, 1);
    const at::Tensor v = flow.velocity(at_t.x, t, {}, context).value;
    EXPECT_NEAR(ReflowLoss{}(at_t.x, v, at_t.target, y, t).mean().item<double>(), row.loss,
                0.01 * row.loss + 1e-12);
    EXPECT_NEAR(s * row.beta * std::asin(row.beta), row.loss, 1e-8);
    // The exact flow Z_t = t m + sig_t x0 of a grid of points with mean 0 and variance 1.
    const at::Tensor start = at::tensor({-1.0, 1.0}, at::kDouble).view({2, 1});
    const int64_t steps = 4000;
    const at::Tensor knots = at::linspace(0, 1, steps + 1, at::kDouble);
    const at::Tensor middle = (knots.slice(0, 0, steps) + knots.slice(0, 1)) / 2;
    const auto deviation = [&](const at::Tensor& time) {
      return (time.square() * (s * s) + (1 - time).square() +
              2 * rho * s * time * (1 - time)).sqrt();
    };
    samplers::EulerPaths paths;
    paths.states = knots.view({-1, 1, 1}) * m + deviation(knots).view({-1, 1, 1}) * start;
    const at::Tensor slope =
        (middle * (s * s) - (1 - middle) + rho * s * (1 - 2 * middle)) / deviation(middle);
    paths.velocities = m + slope.view({-1, 1, 1}) * start;
    const double found = samplers::deviation_by_time(paths).mean().item<double>();
    EXPECT_NEAR(found, row.straightness, 1e-7);
    EXPECT_NEAR(found + row.loss, 2 * s * (1 - rho), 1e-7);
  }
}

// One Euler step gives rho s, two (rho = 0, s = 1/2) 0.2.
TEST(ReflowOracle, EulerOnCouplings) {
  const at::Tensor start = at::tensor({-1.0, 1.0}, at::kDouble).view({2, 1});
  const auto spread = [&](double s, double rho, int64_t steps) {
    CoupledGaussian flow(0.3, s, rho);
    const at::Tensor end = samplers::euler_paths(flow, start, {}, steps).states[-1];
    return (end[1] - end[0]).item<double>() / 2;
  };
  for (const double rho : {0.0, 0.3, 0.8, 1.0})
    for (const double s : {0.2, 0.5, 1.0}) EXPECT_NEAR(spread(s, rho, 1), rho * s, 1e-14);
  EXPECT_NEAR(spread(0.5, 0, 2), 0.2, 1e-14);
}

// rho = 1: every number of steps is exact, and nothing is bent or left over.
TEST(ReflowOracle, SecondRectifiedFlowIsStraight) {
  const Bundle bundle(64);
  const double m = 0.3, s = 0.4;
  CoupledGaussian flow(m, s, 1);
  const at::Tensor y = m + s * bundle.noise;
  for (const int64_t steps : {1, 2, 7, 50}) {
    const samplers::EulerPaths paths = samplers::euler_paths(flow, bundle.noise, {}, steps);
    EXPECT_LT(difference(paths.states[-1], y), 1e-13) << steps;
    EXPECT_LT(samplers::deviation_by_time(paths).mean().item<double>(), 1e-26);
    EXPECT_LT(samplers::pair_error(paths.states[-1], y).max().item<double>(), 1e-26);
    if (steps == 1) continue;
    EXPECT_LT(samplers::curvature_by_time(paths).max().item<double>(), 1e-20);
  }
}

// v = m + (kappa - 1)(x - t m) / (1 + t (kappa - 1)), one weight.
class LinearStudent : public testing::AnalyticModel {
 public:
  LinearStudent(double m, double kappa)
      : AnalyticModel({.kind = ModelKind::velocity, .sample_shape = {1}}), m_(m) {
    weight = register_parameter("kappa", at::full({1}, kappa, at::kDouble));
  }
  Dual velocity(const Dual& x, const Dual&, const Condition&, Context&) override {
    return m_ + (weight - 1) * x.value;  // asked at t = 0
  }
  at::Tensor weight;

 private:
  double m_;
};

// The guide is straight: the mean target slope is A + B kappa, its fixed point kappa = s; and
// the gradient is that of a regression on a constant target.
TEST(ReflowOracle, FlowGuidedFixedPoint) {
  const struct { double s, a, b; } rows[] = {
      {1, .5, .5}, {.5, .324225, .351550}, {.2, .161740, .191301}};
  const double m = 0.3;
  const int64_t rows_of_t = 20'000;
  const at::Tensor t =
      0.2 + 0.6 * (at::arange(rows_of_t, at::kDouble) + 0.5) / rows_of_t;
  const at::Tensor x0 = at::ones({rows_of_t, 1}, at::kDouble);
  Context context;
  for (const auto& row : rows) {
    CoupledGaussian guide(m, row.s, 1);
    for (const double kappa : {0.1, row.s, 1.5}) {
      LinearStudent student(m, kappa);
      const at::Tensor v = student.velocity(x0, t, {}, context).value;
      const TwoSteps steps = two_step_target(guide, x0, v, t, {}, context);
      const double slope = (steps.end - m).mean().item<double>();
      EXPECT_NEAR(slope, row.a + row.b * kappa, 2e-6) << row.s << " " << kappa;
      const at::Tensor loss = EndLoss{}(x0, v, steps.end).mean();
      loss.backward();
      // d/dkappa of (kappa - target)^2, the target constant; with it the factor were 1 - B.
      EXPECT_NEAR(student.weight.grad().item<double>(), 2 * (kappa - slope), 1e-10);
      EXPECT_EQ(std::abs(slope - kappa) < 2e-6, kappa == row.s);  // the only fixed point
    }
  }
}

// Euler on the closed form of two points at +-1, and the straight coupling sign(n).
TEST(ReflowOracle, TwoPoints) {
  testing::MixtureModel points(ModelKind::velocity, {1},
                               at::tensor({0.5, 0.5}, at::kDouble),
                               at::tensor({1.0, -1.0}, at::kDouble).view({2, 1}),
                               at::zeros({2}, at::kDouble));
  const at::Tensor start = at::full({1, 1}, 0.3, at::kDouble);
  const auto end = [&](int64_t steps) {
    return samplers::euler_paths(points, start, {}, steps).states[-1].item<double>();
  };
  EXPECT_NEAR(end(1), 0, 1e-15);
  EXPECT_NEAR(end(2), 0.2913126124515909, 1e-13);
  EXPECT_NEAR(end(4), 0.9967127786688268, 1e-13);
  EXPECT_NEAR(end(10), 1, 1e-6);
  Context context;
  for (const double t : {0.0, 0.3, 0.7, 0.99}) {
    const at::Tensor x = at::tensor({-0.8, 0.01, 0.5}, at::kDouble).view({3, 1});
    const at::Tensor closed =
        ((t * x / ((1 - t) * (1 - t))).tanh() - x) / (1 - t);
    EXPECT_LT(difference(points.velocity(x, at::full({3}, t, at::kDouble), {}, context).value,
                         closed), 1e-12) << t;
  }
}

// Two Euler steps of half the length, and their gradient-free target; exact where the paths
// are straight.
TEST(ReflowOracle, HalvingTarget) {
  Context context;
  const Bundle bundle(16);
  CoupledGaussian curved(0.3, 0.5, 0), straight(0.3, 0.5, 1);
  const double h = 0.25;
  const at::Tensor s = at::full({16}, 0.5, at::kDouble);
  const auto step = [&](Model& model, const at::Tensor& x, double t, double by) {
    return x + by * model.velocity(x, at::full({16}, t, at::kDouble), {}, context).value;
  };
  const at::Tensor x = bundle.noise;
  const at::Tensor twice = step(curved, step(curved, x, 0.5, 0.125), 0.625, 0.125);
  EXPECT_LT(difference(x + h * halving_target(curved, x, s, h, {}, context), twice), 1e-14);
  const at::Tensor on_path = 0.5 * 0.3 + (0.5 + 0.5 * 0.5) * x;  // Z_{1/2}
  EXPECT_LT(difference(halving_target(straight, on_path, s, h, {}, context),
                       straight.velocity(on_path, s, {}, context).value), 1e-13);
}

// Weights of SlimFlow's average after n steps: d_k = (1 + k)/(10 + k), 9 j^8 / n^9 for large n.
TEST(ReflowOracle, AverageWithWarmup) {
  const EmaProfile profile{.rule = EmaProfile::Rule::constant, .decay = 0.999999,
                           .warmup = true};
  const int64_t n = 4000;
  double average = 0;
  for (int64_t k = 0; k < n; ++k) {
    const double beta = profile.beta(128 * k, 128, k);
    EXPECT_DOUBLE_EQ(beta, (2.0 + static_cast<double>(k)) / (11.0 + static_cast<double>(k)));
    average = beta * average + (1 - beta) * static_cast<double>(k + 1);
  }
  // Sum of j 9 j^8 / n^9 is 9/10 n: the mean age is a tenth of the run.
  EXPECT_NEAR(average / static_cast<double>(n), 0.9, 2e-3);
}

}  // namespace
}  // namespace flowmap::distill
