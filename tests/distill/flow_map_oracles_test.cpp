// Every residual of flow maps against closed forms: exact maps of Gaussians, points, shifts
// and mixtures, one-weight models, and finite differences with the target held fixed.
#include "distill/flow_map/losses.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "distill/regression_losses.h"
#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "flowmap/interpolant.h"
#include "flowmap/time_sampling.h"
#include "tests/support/analytic_models.h"
#include "tests/support/flow_map_models.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using testing::difference;
using testing::GaussianFlow;
using testing::OneWeightMap;
using testing::ReferenceMap;

constexpr double kA = 0.5, kC = 1.7, kM0 = 0.3, kM1 = -1.1;

// Rows of uniform s < t at least `least` apart, normal data and noise, float64.
struct Rows {
  at::Tensor s, t, g, x0, x1;  // [n], [n, d]
  Rows(int64_t n, int64_t d, double least = 0) {
    const Draw draw(3, 0, n);
    const auto pair = TimePairSampler{}.sample(draw, "pair");
    s = pair.s.to(at::kDouble) * (1 - least);
    t = pair.t.to(at::kDouble) * (1 - least) + least;
    g = draw.uniform("g", {}).to(at::kDouble);
    x0 = draw.normal("x0", {d}).to(at::kDouble);
    x1 = draw.normal("x1", {d}).to(at::kDouble);
  }
  MapSamples samples() const {
    const Interpolated at_s = interpolate(x1, x0, s, 1);
    return {at_s.x, at_s.target, s, t, {}, {}};
  }
};

at::Tensor own_velocity(Model& model, const at::Tensor& x, const at::Tensor& t) {
  Context context;
  return model.velocity(x, t, {}, context).value.detach();
}

at::Tensor lagrangian(Model& map, Model& teacher, const MapSamples& at,
                      StopGradient stop = StopGradient::convex) {
  Context context;
  return lagrangian_loss(map, teacher, at, context, stop);
}
at::Tensor eulerian(Model& map, Model& teacher, const MapSamples& at,
                    StopGradient stop = StopGradient::full) {
  Context context;
  return eulerian_loss(map, teacher, at, context, stop);
}
at::Tensor semigroup(Model& map, Model& teacher, const MapSamples& at, const at::Tensor& g,
                     const SemigroupOptions& options = {}) {
  Context context;
  return semigroup_loss(map, teacher, at, g, context, options);
}
// Consistency distillation: both velocities the teacher's.
at::Tensor tangent(Model& map, Model& teacher, const MapSamples& at,
                   const TangentOptions& options = {}) {
  Context context;
  const at::Tensor b = own_velocity(teacher, at.x, at.s);
  return tangent_loss(map, at, b, b, context, options);
}
// alpha-Flow along the map's own v_{s,u}: the semigroup property.
at::Tensor alpha_flow(Model& map, const MapSamples& at, double alpha) {
  Context context;
  const at::Tensor u = at.s + alpha * (at.t - at.s);
  const at::Tensor base = map.average_velocity(at.x, at.s, u, {}, context).value.detach();
  return alpha_flow_loss(map, map, at, base, alpha, context);
}
// at.x is taken at t.
at::Tensor two_sided(Model& map, Model& teacher, MapSamples at, bool round_trip = true) {
  at.velocity = own_velocity(teacher, at.x, at.t);
  Context context;
  return two_sided_loss(map, at, context, round_trip);
}

struct Member {
  const char* name;
  // Residual of `map`, what it learns from has the velocity of `flow`.
  std::function<at::Tensor(Model& map, Model& flow, const MapSamples&, const at::Tensor& g)>
      loss;
};

// Every residual in every form whose zero is the exact map.
const std::vector<Member>& members() {
  using S = StopGradient;
  const auto lmd = [](S stop) {
    return [stop](Model& map, Model& flow, const MapSamples& at, const at::Tensor&) {
      return lagrangian(map, flow, at, stop);
    };
  };
  const auto emd = [](S stop) {
    return [stop](Model& map, Model& flow, const MapSamples& at, const at::Tensor&) {
      return eulerian(map, flow, at, stop);
    };
  };
  const auto psd = [](SemigroupOptions options) {
    return [options](Model& map, Model&, const MapSamples& at, const at::Tensor& g) {
      return semigroup(map, map, at, g, options);
    };
  };
  static const std::vector<Member> all = {
      {"lagrangian convex", lmd(S::convex)},
      {"lagrangian none", lmd(S::none)},
      {"lagrangian detached", lmd(S::detached)},
      {"eulerian full", emd(S::full)},
      {"eulerian convex", emd(S::convex)},
      {"eulerian none", emd(S::none)},
      {"eulerian detached", emd(S::detached)},
      {"semigroup", psd({})},
      {"semigroup none", psd({.stop = S::none})},
      {"semigroup of the map", psd({.preconditioned = false})},
      {"tangent", [](Model& map, Model& flow, const MapSamples& at, const at::Tensor&) {
         return tangent(map, flow, at);
       }},
      {"tangent normalized",
       [](Model& map, Model& flow, const MapSamples& at, const at::Tensor&) {
         return tangent(map, flow, at, {.normalize = true});
       }},
      {"alpha flow", [](Model& map, Model&, const MapSamples& at, const at::Tensor&) {
         return alpha_flow(map, at, 0.25);
       }},
      {"two-sided", [](Model& map, Model& flow, const MapSamples& at, const at::Tensor&) {
         return two_sided(map, flow, at);
       }},
      {"one-sided", [](Model& map, Model& flow, const MapSamples& at, const at::Tensor&) {
         return two_sided(map, flow, at, false);
       }},
      {"both sides, back in time",
       [](Model& map, Model& flow, const MapSamples& at, const at::Tensor&) {
         MapSamples turned = at;
         std::swap(turned.s, turned.t);
         return two_sided(map, flow, turned);
       }},
      {"chord", [](Model& map, Model& flow, const MapSamples& at, const at::Tensor&) {
         Context context;
         return chord_loss(map, flow, at, 256, context);
       }},
  };
  return all;
}

// Largest residual of each member below `limit`; a chord is as good as its 256 steps.
void expect_zero(Model& map, Model& flow, const MapSamples& at, const at::Tensor& g,
                 double limit) {
  for (const Member& member : members()) {
    const double most = member.loss(map, flow, at, g).max().item<double>();
    EXPECT_LT(most, std::string(member.name) == "chord" ? 1e-16 : limit) << member.name;
  }
}

void expect_paid(Model& map, Model& flow, const MapSamples& at, const at::Tensor& g) {
  for (const Member& member : members())
    EXPECT_GT(member.loss(map, flow, at, g).mean().item<double>(), 1e-5) << member.name;
}

// Oracle A.
TEST(FlowMapOracles, ExactGaussianMapsHaveNoResidual) {
  GaussianFlow flow({4}, kM0, kA, kM1, kC);
  const Rows rows(64, 4);
  expect_zero(flow, flow, rows.samples(), rows.g, 1e-24);
  testing::BentMap bent(flow, 0.2);
  expect_paid(bent, flow, rows.samples(), rows.g);
}

TEST(FlowMapOracles, ExactTrigonometricMapsHaveNoResidual) {
  testing::TrigonometricGaussian flow({2}, kM0, kA, kM1, kC);
  const Rows rows(64, 2, 0.05);
  expect_zero(flow, flow, rows.samples(), rows.g, 1e-20);
  testing::BentMap bent(flow, 0.2);
  expect_paid(bent, flow, rows.samples(), rows.g);
  // The flow is that of the interpolant: oracle B, (pi/2)^2 a c a dimension.
  const int64_t n = 200'000;
  const Draw draw(1, 0, n);
  const at::Tensor t = (at::arange(n, at::kDouble) + 0.5) / static_cast<double>(n);
  const Interpolated at_t = interpolate(
      draw.normal("x1", {2}).to(at::kDouble) * kC + kM1,
      draw.normal("x0", {2}).to(at::kDouble) + kM0 / kA, t, kA, Interpolant::trigonometric);
  Context context;
  const double expected = std::numbers::pi * std::numbers::pi / 4 * kA * kC;
  EXPECT_NEAR(expected, 2.097291, 1e-6);
  EXPECT_NEAR(diagonal_loss(flow, at_t.x, t, at_t.target, {}, context).mean()
                  .item<double>() / 2, expected, 0.02);
}

// Runge-Kutta of order four: half the step, a sixteenth of the error.
TEST(FlowMapOracles, ChordsConvergeInFourthOrder) {
  GaussianFlow flow({2}, kM0, kA, kM1, kC);
  const Rows rows(64, 2, 0.3);
  const auto error = [&](int64_t steps) {
    Context context;
    return chord_loss(flow, flow, rows.samples(), steps, context).sqrt().mean()
        .item<double>();
  };
  EXPECT_NEAR(error(16) / error(32), 16, 2);
  EXPECT_LT(error(512), 1e-10);
}

// Oracle C: all data at one point.
TEST(FlowMapOracles, PointTargetsHaveNoResidual) {
  testing::PointTarget flow({3}, 0.7);
  const Rows rows(64, 3);
  MapSamples at = rows.samples();
  at.s = at.s * 0.9;
  at.t = at.t * 0.9;
  expect_zero(flow, flow, at, rows.g, 1e-24);
  testing::BentMap bent(flow, 0.2);
  expect_paid(bent, flow, at, rows.g);
}

// Oracle D: x1 = x0 + k; the sample's velocity is the flow's.
TEST(FlowMapOracles, ShiftsHaveNoResidualAtAll) {
  testing::ShiftFlow flow({2}, 0.25);
  const Rows rows(64, 2);
  const Interpolated at_s = interpolate(rows.x0 + 0.25, rows.x0, rows.s, 1);
  const MapSamples at{at_s.x, at::full_like(at_s.x, 0.25), rows.s, rows.t, {}, {}};
  for (const Member& member : members()) {
    // There and back rounds.
    const bool rounds = std::string(member.name).find("two") == 0 ||
                        std::string(member.name).find("both") == 0;
    EXPECT_LE(member.loss(flow, flow, at, rows.g).max().item<double>(), rounds ? 1e-28 : 0)
        << member.name;
  }
  Context context;
  EXPECT_EQ(tangent_loss(flow, at, at.velocity, at.velocity, context).max()
                .item<double>(), 0);
  EXPECT_EQ(alpha_flow_loss(flow, flow, at, at.velocity, 0.5, context).max()
                .item<double>(), 0);
  EXPECT_EQ(diagonal_loss(flow, at.x, at.s, at.velocity, {}, context).max()
                .item<double>(), 0);
}

// Oracle E: v = 0 is the map of a flow; members that see the sample's velocity pay for it.
TEST(FlowMapOracles, NullSolutionPaysWhereTheSampleIsSeen) {
  OneWeightMap null(0, false);
  const Rows rows(64, 1);
  const MapSamples at = rows.samples();
  for (const Member& member : members())
    EXPECT_EQ(member.loss(null, null, at, rows.g).max().item<double>(), 0) << member.name;
  Context context;
  const at::Tensor energy = at.velocity.square().sum(1);
  EXPECT_LT(difference(tangent_loss(null, at, at.velocity, at.velocity, context), energy),
            1e-14);
  EXPECT_LT(difference(alpha_flow_loss(null, null, at, at.velocity, 0.5, context),
                       0.5 * energy), 1e-14);
  EXPECT_LT(difference(two_sided_loss(null, at, context), energy), 1e-14);
}

// Oracle F: v = lambda x. Residuals -lambda^2 h x (Lagrangian), + lambda^2 h x (Eulerian),
// -lambda^2 g (1-g) h x (semigroup).
TEST(FlowMapOracles, ConstantRateResiduals) {
  const double rate = 0.7;
  OneWeightMap model(rate, false);
  const Rows rows(64, 1);
  const MapSamples at = rows.samples();
  const at::Tensor h = at.t - at.s, square = at.x.square().sum(1);
  const at::Tensor plain = std::pow(rate, 4) * h.square() * square;
  using S = StopGradient;
  for (const S stop : {S::convex, S::none, S::detached})
    EXPECT_LT(difference(lagrangian(model, model, at, stop), plain), 1e-14);
  for (const S stop : {S::full, S::convex, S::none, S::detached})
    EXPECT_LT(difference(eulerian(model, model, at, stop), plain), 1e-14);
  EXPECT_LT(difference(tangent(model, model, at), plain), 1e-14);
  const at::Tensor split = (rows.g * (1 - rows.g)).square() * plain;
  EXPECT_LT(difference(semigroup(model, model, at, rows.g), split), 1e-15);
  EXPECT_LT(difference(semigroup(model, model, at, rows.g, {.preconditioned = false}),
                       h.square() * split), 1e-15);
  // u = s + alpha h is g = 1 - alpha.
  EXPECT_LT(difference(alpha_flow(model, at, 0.25),
                       std::pow(0.25 * 0.75, 2) / 0.25 * plain), 1e-15);
  // There and back: x (1 - lambda h)(1 + lambda h), which ends lambda^2 h^2 x short.
  const at::Tensor slope = rate * (1 - rate * h) * at.x.squeeze(1);
  Context context;
  EXPECT_LT(difference(two_sided_loss(model, at, context),
                       (slope - at.velocity.squeeze(1)).square() + h.square() * plain),
            1e-14);
  const at::Tensor chord = (h * rate).expm1() / h;
  EXPECT_LT(difference(chord_loss(model, model, at, 64, context),
                       (chord - rate).square() * square), 1e-8);
}

TEST(FlowMapOracles, ConstantRateMeans) {
  const double fourth = std::pow(0.7, 4);
  OneWeightMap model(0.7, false);
  const Rows rows(400'000, 1);
  const MapSamples at = rows.samples();
  const at::NoGradGuard no_grad;
  const auto mean = [](const at::Tensor& raw) { return raw.mean().item<double>(); };
  EXPECT_NEAR(mean(eulerian(model, model, at)), fourth * 11 / 90, 4e-4);
  EXPECT_NEAR(mean(tangent(model, model, at)), fourth * 11 / 90, 4e-4);
  EXPECT_NEAR(mean(semigroup(model, model, at, at::full_like(at.s, 0.5))),
              fourth * 11 / 1440, 2.5e-5);
  EXPECT_NEAR(mean(semigroup(model, model, at, rows.g)), fourth * 11 / 2700, 1.5e-5);
}

MapSamples one_sample() {
  const auto value = [](double v) { return at::full({1}, v, at::kDouble); };
  return {at::full({1, 1}, 1.3, at::kDouble), {}, value(0.2), value(0.9), {}, {}};
}

double weight_gradient(OneWeightMap& model, const at::Tensor& loss) {
  model.weight.mutable_grad().reset();
  loss.backward();
  return model.weight.grad().item<double>();
}

// Oracle G: d loss / d lambda.
TEST(FlowMapOracles, GradientPins) {
  OneWeightMap model(0.7, false);
  const MapSamples at = one_sample();
  const at::Tensor half = at::full({1}, 0.5, at::kDouble);
  const auto esd = [&](StopGradient stop) {
    return weight_gradient(model, eulerian(model, model, at, stop));
  };
  EXPECT_NEAR(esd(StopGradient::none), 1.1361532, 1e-12);
  EXPECT_NEAR(esd(StopGradient::full), -1.15934, 1e-12);
  EXPECT_NEAR(esd(StopGradient::convex), -.5912634, 1e-12);
  EXPECT_NEAR(esd(StopGradient::detached), -1.15934, 1e-12);
  const auto psd = [&](StopGradient stop) {
    return weight_gradient(model, semigroup(model, model, at, half, {.stop = stop}));
  };
  EXPECT_NEAR(psd(StopGradient::none), 0.343 * 0.49 * 1.69 / 4, 1e-12);
  EXPECT_NEAR(psd(StopGradient::none), .0710096, 1e-7);
  EXPECT_NEAR(psd(StopGradient::convex), -.289835, 1e-12);
  EXPECT_NEAR(weight_gradient(model, tangent(model, model, at)), -1.15934, 1e-12);
  // At alpha = 1/2 half of the tangent's: -2 (1 - alpha) lambda^2 h x^2.
  EXPECT_NEAR(weight_gradient(model, alpha_flow(model, at, 0.5)), -1.15934 / 2, 1e-12);
}

// Oracle H for s: v = lambda h x, whose own velocity is zero, moves along s by -2 lambda h
// x; the gradient through the derivative is half of all.
TEST(FlowMapOracles, DerivativeInTheFirstTimeIsTaped) {
  OneWeightMap model(0.7, true);
  const MapSamples at = one_sample();
  const double unit = 0.7 * 0.49 * 1.69;
  const auto gradient = [&](StopGradient stop) {
    const at::Tensor loss = eulerian(model, model, at, stop);
    EXPECT_NEAR(loss.item<double>(), 4 * 0.7 * unit, 1e-13);
    return weight_gradient(model, loss);
  };
  EXPECT_NEAR(gradient(StopGradient::full), 8 * unit, 1e-13);
  EXPECT_NEAR(gradient(StopGradient::convex), 8 * unit, 1e-13);
  EXPECT_NEAR(gradient(StopGradient::none), 8 * unit, 1e-13);
  EXPECT_NEAR(gradient(StopGradient::detached), 4 * unit, 1e-13);
  const at::Tensor loss = tangent(model, model, at);
  EXPECT_NEAR(loss.item<double>(), 4 * 0.7 * unit, 1e-13);
  EXPECT_NEAR(weight_gradient(model, loss), 4 * unit, 1e-13);
  const Rows rows(400'000, 1);
  const at::NoGradGuard no_grad;
  EXPECT_NEAR(eulerian(model, model, rows.samples()).mean().item<double>(),
              4 * 0.49 * 11 / 90, 3e-3);
}

// Oracle I: a mixture of two, its exact map and the velocity by posterior weights.
struct Mixture {
  testing::QuantileMap map{{.3, .7}, {-1.5, 1}, {.2, .4}, 1};
  testing::MixtureModel velocity{ModelKind::velocity, {1},
                                 at::tensor({.3, .7}, at::kDouble),
                                 at::tensor({-1.5, 1.0}, at::kDouble).unsqueeze(1),
                                 at::tensor({.2, .4}, at::kDouble), 1};
};

TEST(FlowMapOracles, QuantileTransportPins) {
  Mixture mixture;
  Context context;
  const double pins[][4] = {{0, 1, .3, .953936023241},
                            {0, 1, -.8, -1.391545466373},
                            {.2, .7, .1, .505985368488},
                            {.1, .95, -1.2, -1.530533605232}};
  for (const auto& [s, t, x, landing] : pins) {
    const at::Tensor from = at::full({1, 1}, x, at::kDouble);
    EXPECT_NEAR(mixture.map.map(from, at::full({1}, s, at::kDouble),
                                at::full({1}, t, at::kDouble), {}, context)
                    .value.item<double>(), landing, 1e-11);
  }
}

TEST(FlowMapOracles, ExactMixtureMapsHaveNoResidual) {
  Mixture mixture;
  const Rows rows(48, 1, 0.02);
  MapSamples at = rows.samples();
  at.x = interpolate(rows.x1 * 0.4 + 1, rows.x0, rows.s, 1).x;
  const at::NoGradGuard no_grad;
  expect_zero(mixture.map, mixture.velocity, at, rows.g, 1e-20);
  testing::BentMap bent(mixture.map, 0.2);
  expect_paid(bent, mixture.velocity, at, rows.g);
}

// The first round of progressive distillation: two Euler steps of the velocity are right
// to first order in h, so a raw residual falls by four where h halves.
TEST(FlowMapOracles, EulerStepsAreMapsOfShortJumps) {
  Mixture mixture;
  const at::NoGradGuard no_grad;
  const auto residual = [&](double h) {
    const Rows rows(48, 1);
    MapSamples at{interpolate(rows.x1 * 0.4 + 1, rows.x0, rows.s, 1).x, {},
                  rows.s * 0.8, rows.s * 0.8 + h, {}, {}};
    return semigroup(mixture.map, mixture.velocity, at, at::full_like(at.s, 0.5)).mean()
        .item<double>();
  };
  EXPECT_NEAR(residual(2e-3) / residual(1e-3), 4, 0.1);
  EXPECT_LT(residual(1e-3), 1e-4);
}

// Oracle L, for any model.
TEST(FlowMapOracles, SemigroupResidualsOfMapAndVelocity) {
  const auto model = testing::random_reference_map(4);
  const Rows rows(64, 2, 0.05);
  const MapSamples at = rows.samples();
  Context context;
  const at::Tensor u = rows.g * at.s + (1 - rows.g) * at.t;
  const at::Tensor halfway = model->map(at.x, at.s, u, {}, context).value;
  const at::Tensor expected = (model->map(at.x, at.s, at.t, {}, context).value -
                               model->map(halfway, u, at.t, {}, context).value)
                                  .square().sum(1);
  const at::Tensor raw = semigroup(*model, *model, at, rows.g);
  const at::Tensor h2 = (at.t - at.s).square();
  EXPECT_LT(((h2 * raw - expected) / expected).abs().max().item<double>(), 1e-10);
  EXPECT_LT(difference(h2 * raw / expected.mean(), expected / expected.mean()), 1e-12);
  EXPECT_TRUE(at::equal(
      semigroup(*model, *model, at, rows.g, {.preconditioned = false}), h2 * raw));
}

// Oracle M: gradients are those of the loss whose target is held fixed. `fixed` gets the
// student, moved, and a copy that stands still.
using Loss = std::function<at::Tensor(ReferenceMap& student)>;
using FixedLoss = std::function<at::Tensor(ReferenceMap& student, ReferenceMap& still)>;

void expect_semigradient(const char* name, const Loss& loss, const FixedLoss& fixed) {
  const auto student = testing::random_reference_map(1), still = testing::copy_of(*student);
  loss(*student).mean().backward();
  const Draw draw(9, 0, 1);
  double along = 0;
  std::vector<at::Tensor> direction;
  for (const at::Tensor& p : student->net().ordered()) {
    direction.push_back(draw.normal("d" + std::to_string(direction.size()), p.sizes())[0]
                            .to(at::kDouble));
    along += (direction.back() * p.grad()).sum().item<double>();
  }
  const at::NoGradGuard no_grad;
  EXPECT_LT(difference(loss(*student), fixed(*student, *still)), 1e-13) << name;
  const double step = 1e-5;
  const auto moved = [&](double by) {
    for (std::size_t i = 0; i < direction.size(); ++i)
      student->net().ordered()[i].add_(direction[i], by);
    return fixed(*student, *still).mean().item<double>();
  };
  const double above = moved(step), below = moved(-2 * step);
  EXPECT_NEAR((above - below) / (2 * step), along, 1e-7 * std::abs(along)) << name;
  EXPECT_GT(std::abs(along), 1e-3) << name;
}

struct Derivatives {
  at::Tensor v, tangent;
};

TEST(FlowMapOracles, SemigradientsAgainstFiniteDifferences) {
  using S = StopGradient;
  const Rows rows(32, 2);
  const MapSamples at = rows.samples();
  const at::Tensor h = column_like(at.t - at.s, at.x), one = at::ones_like(at.s);
  Context context;
  const auto regression = [&](ReferenceMap& student, const at::Tensor& target) {
    return average_velocity_loss(student, at, target.detach(), context);
  };
  const auto along = [&](ReferenceMap& model, const at::Tensor& dx, bool in_s, bool in_t) {
    const Dual v = model.average_velocity(
        Dual(at.x, dx), in_s ? Dual(at.s, one) : Dual(at.s),
        in_t ? Dual(at.t, one) : Dual(at.t), {}, context);
    return Derivatives{v.value.detach(), v.tangent.detach()};
  };

  expect_semigradient(
      "lagrangian none",
      [&](ReferenceMap& m) { return lagrangian(m, m, at, S::none); },
      [&](ReferenceMap& m, ReferenceMap&) { return lagrangian(m, m, at, S::none); });
  expect_semigradient(
      "lagrangian detached",
      [&](ReferenceMap& m) { return lagrangian(m, m, at, S::detached); },
      [&](ReferenceMap& m, ReferenceMap& still) {
        const auto [v, slope] = along(still, at::zeros_like(at.x), false, true);
        return regression(m, own_velocity(still, at.x + h * v, at.t) - h * slope);
      });

  expect_semigradient(
      "eulerian none", [&](ReferenceMap& m) { return eulerian(m, m, at, S::none); },
      [&](ReferenceMap& m, ReferenceMap&) { return eulerian(m, m, at, S::none); });
  for (const S stop : {S::full, S::convex})
    expect_semigradient(
        stop == S::full ? "eulerian full" : "eulerian convex",
        [&](ReferenceMap& m) { return eulerian(m, m, at, stop); },
        [&](ReferenceMap& m, ReferenceMap& still) { return eulerian(m, still, at, stop); });
  expect_semigradient(
      "eulerian detached", [&](ReferenceMap& m) { return eulerian(m, m, at, S::detached); },
      [&](ReferenceMap& m, ReferenceMap& still) {
        const at::Tensor b = own_velocity(still, at.x, at.s);
        return regression(m, b + h * along(still, b, true, false).tangent);
      });

  for (const bool preconditioned : {true, false})
    expect_semigradient(
        "semigroup",
        [&](ReferenceMap& m) {
          return semigroup(m, m, at, rows.g, {.preconditioned = preconditioned});
        },
        [&](ReferenceMap& m, ReferenceMap& still) {
          return semigroup(m, still, at, rows.g, {.preconditioned = preconditioned});
        });
  expect_semigradient(
      "semigroup none",
      [&](ReferenceMap& m) { return semigroup(m, m, at, rows.g, {.stop = S::none}); },
      [&](ReferenceMap& m, ReferenceMap&) {
        return semigroup(m, m, at, rows.g, {.stop = S::none});
      });

  // MeanFlow: both velocities the sample's; improved MeanFlow: along the student's own.
  for (const bool own : {false, true})
    expect_semigradient(
        own ? "improved MeanFlow" : "MeanFlow",
        [&](ReferenceMap& m) {
          return tangent_loss(m, at, at.velocity,
                              own ? own_velocity(m, at.x, at.s) : at.velocity, context);
        },
        [&](ReferenceMap& m, ReferenceMap& still) {
          const at::Tensor w = own ? own_velocity(still, at.x, at.s) : at.velocity;
          return regression(m, at.velocity + h * along(still, w, true, false).tangent);
        });
  expect_semigradient(
      "alpha-Flow",
      [&](ReferenceMap& m) {
        return alpha_flow_loss(m, m, at, at.velocity, 0.3, context);
      },
      [&](ReferenceMap& m, ReferenceMap& still) {
        return alpha_flow_loss(m, still, at, at.velocity, 0.3, context);
      });
  for (const bool round_trip : {true, false})
    expect_semigradient(
        "two-sided",
        [&](ReferenceMap& m) { return two_sided_loss(m, at, context, round_trip); },
        [&](ReferenceMap& m, ReferenceMap&) {
          return two_sided_loss(m, at, context, round_trip);
        });
  expect_semigradient(
      "chord", [&](ReferenceMap& m) { return chord_loss(m, m, at, 4, context); },
      [&](ReferenceMap& m, ReferenceMap& still) {
        return chord_loss(m, still, at, 4, context);
      });
}

// What a loss has no form for is refused.
TEST(FlowMapOracles, StopGradientsThatDoNotFitAreRefused) {
  OneWeightMap model(0.7, false);
  const MapSamples at = one_sample();
  EXPECT_THROW(lagrangian(model, model, at, StopGradient::full), UsageError);
  for (const StopGradient stop : {StopGradient::full, StopGradient::detached})
    EXPECT_THROW(semigroup(model, model, at, at::full_like(at.s, 0.5), {.stop = stop}),
                 UsageError);
  Context context;
  EXPECT_THROW(alpha_flow_loss(model, model, at, at.x, 0, context), Error);
  EXPECT_THROW(chord_loss(model, model, at, 0, context), Error);
}

}  // namespace
}  // namespace flowmap::distill
