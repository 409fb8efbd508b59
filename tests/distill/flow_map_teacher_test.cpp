// What flow maps learn from (guided teachers, Euler steps of velocities, mixed velocities)
// and how their residuals are scaled (tangent options, weights).
#include "distill/flow_map/teacher.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "distill/flow_map/losses.h"
#include "distill/regression_losses.h"
#include "flowmap/base/error.h"
#include "flowmap/interpolant.h"
#include "tests/support/analytic_models.h"
#include "tests/support/flow_map_models.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using testing::difference;
using testing::OneWeightMap;

constexpr double kNone = 0.4, kClass[] = {0.9, -0.6};
constexpr int64_t kRows = 6;

// v = rate x, the rate of a row's class, another without. Keeps what it was asked with.
class ClassRates : public testing::AnalyticModel {
 public:
  explicit ClassRates(ModelKind kind, int64_t classes = 2, bool guidance_input = false)
      : AnalyticModel({.kind = kind, .sample_shape = {2}, .label_dim = classes,
                       .guidance_input = guidance_input}) {
    weight = register_parameter("weight", at::ones({1}, at::kDouble));
  }
  Dual velocity(const Dual& x, const Dual&, const Condition& c, Context&) override {
    asked.push_back(c);
    return weight * rates(x.value, c) * x;
  }
  Dual average_velocity(const Dual& x, const Dual& s, const Dual&, const Condition& c,
                        Context& ctx) override {
    return velocity(x, s, c, ctx);
  }
  static at::Tensor rates(const at::Tensor& x, const Condition& c) {
    if (!c.class_labels.defined()) return at::full_like(x.slice(1, 0, 1), kNone);
    const at::Tensor some = c.class_labels.matmul(
        at::tensor({kClass[0] - kNone, kClass[1] - kNone}, at::kDouble));
    return (some + kNone).unsqueeze(1);  // a zero row is no class
  }
  std::vector<Condition> asked;
  at::Tensor weight;
};

at::Tensor labels() {
  return at::one_hot(at::arange(kRows) % 2, 2).to(at::kDouble);
}

MapSamples samples() {
  MapSamples at;
  at.x = at::arange(1, 2 * kRows + 1, at::kDouble).reshape({kRows, 2}) / 5;
  at.velocity = at.x.flip(0) - 1;
  at.s = at::full({kRows}, 0.2, at::kDouble);
  at.t = at::linspace(0.3, 1, kRows, at::kDouble);
  at.condition.class_labels = labels();
  return at;
}

TEST(Teacher, GuidanceBlendsTwoEvaluations) {
  ClassRates model(ModelKind::velocity);
  const Teacher teacher(model);
  const MapSamples at = samples();
  Context context;
  const auto guided = [&](double scale) {
    return teacher.velocity(at.x, at.s, at.condition, at::full_like(at.s, scale), context);
  };
  const at::Tensor plain = teacher.velocity(at.x, at.s, at.condition, {}, context);
  EXPECT_EQ(model.asked.size(), 1u);
  EXPECT_LT(difference(guided(1), plain), 1e-15);
  EXPECT_EQ(model.asked.size(), 3u);
  const at::Tensor own = ClassRates::rates(at.x, at.condition);
  EXPECT_LT(difference(plain, own * at.x), 1e-15);
  EXPECT_LT(difference(guided(0), kNone * at.x), 1e-15);
  EXPECT_LT(difference(guided(3), (kNone + 3 * (own - kNone)) * at.x), 1e-15);
  // A scale a row.
  const at::Tensor scales = at::arange(kRows, at::kDouble);
  EXPECT_LT(difference(teacher.velocity(at.x, at.s, at.condition, scales, context),
                       (kNone + scales.unsqueeze(1) * (own - kNone)) * at.x), 1e-15);
}

TEST(Teacher, GuidanceNeedsClasses) {
  Context context;
  MapSamples at = samples();
  const at::Tensor scale = at::full_like(at.s, 2);
  ClassRates blind(ModelKind::velocity, 0);
  EXPECT_THROW(Teacher(blind).velocity(at.x, at.s, at.condition, scale, context),
               UsageError);
  // Of labels that it does not know it is not told.
  Teacher(blind).velocity(at.x, at.s, at.condition, {}, context);
  for (const Condition& c : blind.asked) EXPECT_FALSE(c.class_labels.defined());
  ClassRates model(ModelKind::velocity);
  at.condition.class_labels.reset();
  EXPECT_THROW(Teacher(model).velocity(at.x, at.s, at.condition, scale, context),
               UsageError);
}

// The map takes the scale as an input; its velocity on the diagonal does not.
TEST(Teacher, ScaleIsAnInputOfMapsThatTakeIt) {
  Context context;
  MapSamples at = samples();
  at.condition.guidance = at::full_like(at.s, 2);
  for (const bool takes : {true, false}) {
    ClassRates map(ModelKind::flow_map, 2, takes);
    const Teacher teacher(map);
    teacher.average_velocity(at.x, at.s, at.t, at.condition, at.condition.guidance, context);
    ASSERT_EQ(map.asked.size(), 1u);
    EXPECT_EQ(map.asked[0].guidance.defined(), takes);
    teacher.velocity(at.x, at.s, at.condition, at.condition.guidance, context);
    ASSERT_EQ(map.asked.size(), 3u);
    EXPECT_FALSE(map.asked[1].guidance.defined());
    EXPECT_FALSE(map.asked[2].guidance.defined());
  }
}

TEST(Teacher, OfOneTimeMakesEulerSteps) {
  ClassRates model(ModelKind::velocity), map(ModelKind::flow_map);
  const MapSamples at = samples();
  Context context;
  EXPECT_TRUE(Teacher(map).has_map());
  EXPECT_FALSE(Teacher(model).has_map());
  const at::Tensor own = ClassRates::rates(at.x, at.condition);
  const auto step = [&](const at::Tensor& scale) {
    return Teacher(model).average_velocity(at.x, at.s, at.t, at.condition, scale, context)
        .value;
  };
  EXPECT_LT(difference(step({}), own * at.x), 1e-15);
  const at::Tensor twice = kNone + 2 * (own - kNone);
  EXPECT_LT(difference(step(at::full_like(at.s, 2)), twice * at.x), 1e-15);
  EXPECT_THROW(Teacher(model).average_velocity(Dual(at.x, at.x), at.s, at.t, at.condition,
                                               {}, context), Error);
  // Two guided Euler half steps: (1 + h r / 2)^2 x, of which v = r x is h r^2 x / 4 short.
  MapSamples guided = at;
  guided.teacher_guidance = at::full_like(at.s, 2);
  const at::Tensor h = column_like(at.t - at.s, at.x);
  const at::Tensor wanted = twice * at.x * (1 + h * twice / 4);
  EXPECT_LT(difference(semigroup_loss(map, model, guided, at::full_like(at.s, 0.5), context),
                       (own * at.x - wanted).square().sum(1)), 1e-14);
}

// All that learn from a velocity learn from the guided one.
TEST(Teacher, EveryResidualIsGuided) {
  ClassRates model(ModelKind::flow_map);
  MapSamples at = samples();
  Context context;
  const at::Tensor own = ClassRates::rates(at.x, at.condition);
  const at::Tensor guided = kNone + 3 * (own - kNone), h = column_like(at.t - at.s, at.x);
  at.teacher_guidance = at::full_like(at.s, 3);
  EXPECT_LT(difference(lagrangian_loss(model, model, at, context, StopGradient::convex),
                       (own * at.x - guided * (1 + h * own) * at.x).square().sum(1)), 1e-14);
  EXPECT_LT(difference(eulerian_loss(model, model, at, context, StopGradient::full),
                       (-own * at.x + guided * (1 + h * own) * at.x).square().sum(1)),
            1e-14);
  const at::Tensor chord = (h * guided).expm1() / h;
  EXPECT_LT(difference(chord_loss(model, model, at, 256, context),
                       ((own - chord) * at.x).square().sum(1)), 1e-8);
}

// MeanFlow's mix: omega of the sample, kappa of the class, the rest of no class.
TEST(MixedVelocity, MixesThreeVelocities) {
  ClassRates model(ModelKind::flow_map);
  MapSamples at = samples();
  at.condition.guidance = at::full_like(at.s, 2);
  at.condition.class_labels[1].zero_();
  at.condition.class_labels[4].zero_();
  Context context;
  const at::Tensor own = ClassRates::rates(at.x, at.condition);
  const at::Tensor mixed = mixed_velocity(model, at, 3, 0.25, context);
  EXPECT_FALSE(mixed.requires_grad());
  const at::Tensor expected = 3 * at.velocity + (-2.25 * kNone + 0.25 * own) * at.x;
  for (int64_t i = 0; i < kRows; ++i)  // rows without a class keep the sample's velocity
    EXPECT_LT(difference(mixed[i], i == 1 || i == 4 ? at.velocity[i] : expected[i]), 1e-14)
        << i;
  for (const Condition& c : model.asked) EXPECT_FALSE(c.guidance.defined());
  EXPECT_EQ(model.asked.size(), 2u);
  mixed_velocity(model, at, 3, 0, context);  // without kappa one evaluation is enough
  EXPECT_EQ(model.asked.size(), 3u);
  EXPECT_TRUE(at::equal(mixed_velocity(model, at, 1, 0, context), at.velocity));
  EXPECT_EQ(model.asked.size(), 3u);
  at.condition.class_labels.reset();
  EXPECT_THROW(mixed_velocity(model, at, 3, 0, context), UsageError);
}

// A map of one free number a row and dimension: gradients are what its output gets.
class FreeMap : public testing::AnalyticModel {
 public:
  explicit FreeMap(const at::Tensor& v)
      : AnalyticModel({.kind = ModelKind::flow_map, .sample_shape = {2}}) {
    output = register_parameter("output", v.clone());
  }
  Dual velocity(const Dual&, const Dual&, const Condition&, Context&) override {
    return output;
  }
  Dual average_velocity(const Dual&, const Dual&, const Dual&, const Condition&,
                        Context&) override {
    return output;
  }
  at::Tensor output;
};

// What the output gets is 2 g / (|g| + c)^p: below 2 whatever the residual at p = 1.
TEST(TangentLoss, NormalizationBoundsGradients) {
  const MapSamples at = samples();
  for (const bool invariant : {true, false})
    for (const double p : {1.0, 0.5}) {
      FreeMap map(at.x * at.x * 10);
      const TangentOptions options{.normalize = true, .invariant = invariant, .c = 0.3,
                                   .p = p};
      Context context;
      const at::Tensor raw =
          tangent_loss(map, at, at.velocity, at.velocity, context, options);
      raw.sum().backward();
      at::Tensor g = at.velocity - map.output.detach();
      if (invariant) g = g / std::sqrt(2.0);
      const at::Tensor size = g.square().sum(1, true).sqrt();
      const at::Tensor normalized = g / (size + 0.3).pow(p);
      EXPECT_LT(difference(map.output.grad(), -2 * normalized), 1e-13);
      EXPECT_LT(difference(raw, normalized.square().sum(1)), 1e-13);
      if (p == 1) {
        EXPECT_LT(map.output.grad().norm(2, 1).max().item<double>(), 2);
      }
    }
}

// v = lambda h x along (1, w) moves by lambda (h w - x).
TEST(TangentLoss, WarmUpAndGapLimitScaleTheDerivative) {
  OneWeightMap map(0.7, true);
  MapSamples at = samples();
  at.x = at.x.slice(1, 0, 1);
  at.velocity = at.velocity.slice(1, 0, 1);
  const at::Tensor base = at.x + 1, h = column_like(at.t - at.s, at.x);
  const at::Tensor slope = 0.7 * (h * at.velocity - at.x);
  Context context;
  for (const double warmup : {0.0, 0.4, 1.0})
    for (const double max_gap : {1.0, 0.3}) {
      const at::Tensor wanted = base + warmup * h.clamp_max(max_gap) * slope;
      EXPECT_LT(difference(tangent_loss(map, at, base, at.velocity, context,
                                        {.warmup = warmup, .max_gap = max_gap}),
                           (0.7 * h * at.x - wanted).square().sum(1)), 1e-14)
          << warmup << " " << max_gap;
    }
  EXPECT_GT((at.t - at.s).max().item<double>(), 0.5);  // some gaps are beyond the limit
}

// A shortcut target is cut value by value.
TEST(SemigroupLoss, ClipsTheTarget) {
  OneWeightMap map(0.7, false);
  MapSamples at = samples();
  at.x = at.x.slice(1, 0, 1) * 4;
  Context context;
  const at::Tensor half = at::full_like(at.s, 0.5), h = column_like(at.t - at.s, at.x);
  const at::Tensor target = 0.7 * at.x * (1 + 0.7 * h / 4);
  EXPECT_GT(target.max().item<double>(), 1.5);
  EXPECT_LT(difference(semigroup_loss(map, map, at, half, context, {.clip = 1.5}),
                       (0.7 * at.x - target.clamp(-1.5, 1.5)).square().sum(1)), 1e-14);
}

// A model whose w is one number.
class WeightedModel : public OneWeightMap {
 public:
  explicit WeightedModel(double value) : OneWeightMap(0.5, false) {
    w = register_parameter("w", at::full({1}, value, at::kDouble));
  }
  at::Tensor log_weight(const at::Tensor& s, const at::Tensor&) override {
    return w.expand_as(s);
  }
  at::Tensor w;
};

// log(exp(-w) l + 1) + w/2: smallest at w = log l, where it is log 2 + log(l)/2; far below
// it grows half as fast as w falls, so that one bad sample does not rule.
TEST(LossWeighting, CauchyFindsTheLogOfTheLoss) {
  const LossWeighting cauchy{.rule = LossWeight::cauchy};
  EXPECT_TRUE(needs_log_weight(cauchy.rule));
  const at::Tensor t = at::zeros({3}, at::kDouble);
  const at::Tensor raw = at::full({3}, 3.5, at::kDouble).requires_grad_();
  WeightedModel model(0.4);
  const at::Tensor loss = cauchy.apply(model, raw, t, t);
  const double scaled = std::exp(-0.4) * 3.5;
  EXPECT_NEAR(loss[1].item<double>(), std::log(scaled + 1) + 0.2, 1e-14);
  loss.mean().backward();
  EXPECT_NEAR(model.w.grad().item<double>(), 0.5 - scaled / (scaled + 1), 1e-14);
  EXPECT_NEAR(raw.grad()[1].item<double>(), std::exp(-0.4) / (scaled + 1) / 3, 1e-14);
  for (int i = 0; i < 100; ++i) {  // Newton would overshoot; the curvature is at most 1/4
    model.w.mutable_grad().reset();
    cauchy.apply(model, raw.detach(), t, t).mean().backward();
    const at::NoGradGuard no_grad;
    model.w.sub_(model.w.grad() * 4);
  }
  EXPECT_NEAR(model.w.item<double>(), std::log(3.5), 1e-9);
  EXPECT_NEAR(model.w.grad().item<double>(), 0, 1e-9);
  EXPECT_NEAR(cauchy.apply(model, raw, t, t)[0].item<double>(),
              std::log(2.0) + 0.5 * std::log(3.5), 1e-12);
}

}  // namespace
}  // namespace flowmap::distill
