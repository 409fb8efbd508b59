// Loss terms against closed forms (Gaussian maps, one-weight models), finite differences
// with the teacher frozen, and the reference programs' losses and gradients.
#include "distill/regression_losses.h"
#include "distill/flow_map/losses.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "flowmap/draw.h"
#include "flowmap/interpolant.h"
#include "flowmap/time_sampling.h"
#include "tests/support/analytic_models.h"
#include "tests/support/flow_map_models.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using testing::difference;
using testing::flat_gradient;
using testing::GaussianFlow;
using testing::MethodReference;
using testing::OneWeightMap;
using testing::ReferenceMap;
using testing::ReferenceNet;

constexpr double kA = 0.5, kC = 1.7, kM0 = 0.3, kM1 = -1.1;

at::Tensor value(double v) { return at::full({1}, v, at::kDouble); }
at::Tensor point(double v) { return at::full({1, 1}, v, at::kDouble); }

// Rows of uniform s < t and normal data and noise, float64.
struct Rows {
  at::Tensor s, t, x0, x1;  // [n], [n, d]
  explicit Rows(int64_t n, int64_t d, uint64_t seed = 3) {
    const Draw draw(seed, 0, n);
    const auto pair = TimePairSampler{}.sample(draw, "pair");
    s = pair.s.to(at::kDouble);
    t = pair.t.to(at::kDouble);
    x0 = draw.normal("x0", {d}).to(at::kDouble);
    x1 = draw.normal("x1", {d}).to(at::kDouble);
  }
  at::Tensor at_time(const at::Tensor& time) const {
    return interpolate(x1, x0, time, 1).x;
  }
};

at::Tensor lagrangian(Model& student, Model& teacher, const at::Tensor& x,
                      const at::Tensor& s, const at::Tensor& t,
                      StopGradient stop = StopGradient::convex) {
  Context context;
  return lagrangian_loss(student, teacher, {x, {}, s, t, {}, {}}, context, stop);
}

// Oracle A: the exact map of its own flow has no residual; the pinned digits.
TEST(LagrangianLoss, VanishesOnExactGaussianMaps) {
  GaussianFlow flow({4}, kM0, kA, kM1, kC);
  const Rows rows(64, 4);
  EXPECT_LT(lagrangian(flow, flow, rows.x0, rows.s, rows.t).max().item<double>(), 1e-24);
  // The map of another flow is no solution.
  GaussianFlow other({4}, kM0, kA, kM1 + 0.3, kC);
  EXPECT_GT(lagrangian(flow, other, rows.x0, rows.s, rows.t).mean().item<double>(), 1e-2);
}

TEST(LagrangianLoss, GaussianPins) {
  GaussianFlow flow({1}, kM0, kA, kM1, kC);
  Context context;
  const Dual v = flow.average_velocity(
      point(0.8), value(0.2), Dual(value(0.9), value(1)), {}, context);
  EXPECT_NEAR(v.value.item<double>(), .7349421493251149, 1e-14);
  const double landing = 0.8 + 0.7 * v.value.item<double>();
  EXPECT_NEAR(landing, 1.3144595045275804, 1e-14);
  const double slope = v.value.item<double>() + 0.7 * v.tangent.item<double>();
  EXPECT_NEAR(slope, 1.1002166440484118, 1e-13);
  EXPECT_NEAR(
      flow.velocity(point(landing), value(0.9), {}, context).value.item<double>(),
      1.1002166440484118, 1e-13);
  EXPECT_NEAR(flow.velocity(point(0.8), value(0.2), {}, context).value.item<double>(),
              -.3301886792452835, 1e-14);
}

// Oracle B: what a perfect model scores on the diagonal: (pi/2) a c a dimension.
TEST(DiagonalLoss, IrreducibleForGaussians) {
  GaussianFlow flow({2}, kM0, kA, kM1, kC);
  const int64_t n = 200'000;
  const Draw draw(1, 0, n);
  const at::Tensor x0 = draw.normal("x0", {2}).to(at::kDouble) * kA + kM0;
  const at::Tensor x1 = draw.normal("x1", {2}).to(at::kDouble) * kC + kM1;
  // Equidistant times: the draws of x alone are left to chance.
  const at::Tensor t = (at::arange(n, at::kDouble) + 0.5) / static_cast<double>(n);
  const Interpolated at_t = interpolate(x1, x0, t, 1);
  Context context;
  const at::Tensor raw = diagonal_loss(flow, at_t.x, t, at_t.target, {}, context);
  const double expected = std::numbers::pi / 2 * kA * kC;
  EXPECT_NEAR(expected, 1.335177, 1e-6);
  EXPECT_NEAR(raw.mean().item<double>() / 2, expected, 0.012);
}

// Oracle C: all data at one point: no residual, and v does not depend on t.
TEST(LagrangianLoss, VanishesOnPointTargets) {
  testing::PointTarget flow({3}, 0.7);
  const Rows rows(64, 3);
  const at::Tensor s = rows.s * 0.9, t = rows.t * 0.9;
  EXPECT_LT(lagrangian(flow, flow, rows.x0, s, t).max().item<double>(), 1e-24);
  Context context;
  const Dual v =
      flow.average_velocity(rows.x0, s, Dual(t, at::ones_like(t)), {}, context);
  EXPECT_TRUE(!v.has_tangent() || v.tangent.abs().max().item<double>() == 0);
}

// Oracle D: x1 = x0 + k: every loss is zero, the diagonal one too.
TEST(FlowMapLosses, VanishOnShifts) {
  testing::ShiftFlow flow({2}, 0.25);
  const Rows rows(16, 2);
  Context context;
  const Interpolated at_s = interpolate(rows.x0 + 0.25, rows.x0, rows.s, 1);
  EXPECT_LT(diagonal_loss(flow, at_s.x, rows.s, at_s.target, {}, context)
                .max().item<double>(), 1e-28);
  // Its velocity has no derivative at all: an undefined tangent must do.
  OneWeightMap still(0, false);
  EXPECT_LT(lagrangian(still, still, rows.x0.slice(1, 0, 1), rows.s, rows.t)
                .max().item<double>(), 1e-28);
}

// Oracle E: v = 0 solves the off-diagonal term; the diagonal one is the anchor.
TEST(FlowMapLosses, NullSolutionPaysOnTheDiagonal) {
  OneWeightMap null(0, false);
  const int64_t n = 1'000'000;
  const at::NoGradGuard no_grad;
  const Draw draw(2, 0, n);
  const at::Tensor x0 = draw.normal("x0", {1}).to(at::kDouble) * kA + kM0;
  const at::Tensor x1 = draw.normal("x1", {1}).to(at::kDouble) * kC + kM1;
  const at::Tensor t = draw.uniform("t", {}).to(at::kDouble);
  const Interpolated at_t = interpolate(x1, x0, t, 1);
  Context context;
  EXPECT_EQ(lagrangian(null, null, at_t.x, t * 0.5, t).max().item<double>(), 0);
  const double expected = kA * kA + kC * kC + (kM1 - kM0) * (kM1 - kM0);
  EXPECT_NEAR(diagonal_loss(null, at_t.x, t, at_t.target, {}, context)
                  .mean().item<double>(), expected, 0.01 * expected);
}

// Oracle F: v = lambda x: residual -lambda^2 h x; on average lambda^4 11/90.
TEST(LagrangianLoss, ConstantRateResidual) {
  OneWeightMap model(0.7, false);
  const double h = 0.7, expected = std::pow(0.7, 4) * h * h * 1.3 * 1.3;
  EXPECT_NEAR(lagrangian(model, model, point(1.3), value(0.2), value(0.9)).item<double>(),
              expected, 1e-14);
  const Rows rows(400'000, 1);
  const at::NoGradGuard no_grad;
  EXPECT_NEAR(lagrangian(model, model, rows.at_time(rows.s), rows.s, rows.t)
                  .mean().item<double>(),
              std::pow(0.7, 4) * 11 / 90, 4e-4);
}

double weight_gradient(OneWeightMap& model, const at::Tensor& loss) {
  model.weight.mutable_grad().reset();
  loss.backward();
  return model.weight.grad().item<double>();
}

// Oracle G: the semigradient is not the gradient of the printed loss; here it even has
// the other sign.
TEST(LagrangianLoss, GradientPins) {
  OneWeightMap model(0.7, false);
  const auto gradient = [&](StopGradient stop) {
    return weight_gradient(
        model, lagrangian(model, model, point(1.3), value(0.2), value(0.9), stop));
  };
  EXPECT_NEAR(gradient(StopGradient::none), 1.1361532, 1e-12);
  EXPECT_NEAR(gradient(StopGradient::convex), -1.15934, 1e-12);
  // No derivative in t here, so nothing to detach.
  EXPECT_NEAR(gradient(StopGradient::detached), -1.15934, 1e-12);
}

// Oracle H: v = lambda h x: 8 lambda h^2 x^2 through the taped derivative, half of it when
// the derivative is detached.
TEST(LagrangianLoss, DerivativeIsTaped) {
  OneWeightMap model(0.7, true);
  const double h = 0.7, x = 1.3, unit = 0.7 * h * h * x * x;
  const auto loss = [&](StopGradient stop) {
    return lagrangian(model, model, point(x), value(0.2), value(0.9), stop);
  };
  EXPECT_NEAR(loss(StopGradient::convex).item<double>(), 4 * 0.7 * unit, 1e-13);
  EXPECT_NEAR(weight_gradient(model, loss(StopGradient::convex)), 8 * unit, 1e-13);
  EXPECT_NEAR(weight_gradient(model, loss(StopGradient::detached)), 4 * unit, 1e-13);
  const Rows rows(400'000, 1);
  const at::NoGradGuard no_grad;
  EXPECT_NEAR(lagrangian(model, model, rows.at_time(rows.s), rows.s, rows.t)
                  .mean().item<double>(),
              4 * 0.49 * 11 / 90, 3e-3);
}

// A model whose w is one number.
class WeightedModel : public OneWeightMap {
 public:
  explicit WeightedModel(double w) : OneWeightMap(0.5, false) {
    w_ = register_parameter("w", at::full({1}, w, at::kDouble));
  }
  at::Tensor log_weight(const at::Tensor& s, const at::Tensor&) override {
    return w_.expand_as(s);
  }
  at::Tensor w_;
};

// Oracle K: d/dw = 1 - exp(-w) l; the minimum is at w = log l and costs 1 + log l.
TEST(LossWeighting, LearnedFindsTheLogOfTheLoss) {
  const LossWeighting learned{.rule = LossWeight::learned};
  const at::Tensor raw = at::full({5}, 3.5, at::kDouble), t = at::zeros({5}, at::kDouble);
  WeightedModel model(0.4);
  const at::Tensor loss = learned.apply(model, raw, t, t);
  EXPECT_NEAR(loss.mean().item<double>(), std::exp(-0.4) * 3.5 + 0.4, 1e-14);
  loss.mean().backward();
  EXPECT_NEAR(model.w_.grad().item<double>(), 1 - std::exp(-0.4) * 3.5, 1e-14);
  // Gradient descent on w.
  for (int i = 0; i < 60; ++i) {
    model.w_.mutable_grad().reset();
    learned.apply(model, raw, t, t).mean().backward();
    const at::NoGradGuard no_grad;
    model.w_.sub_(model.w_.grad() * 0.5);
  }
  EXPECT_NEAR(model.w_.item<double>(), std::log(3.5), 1e-9);
  EXPECT_NEAR(learned.apply(model, raw, t, t).mean().item<double>(), 1 + std::log(3.5),
              1e-12);
}

TEST(LossWeighting, ScalesTheGradientOfTheLoss) {
  WeightedModel model(0.4);
  const at::Tensor t = at::zeros({3}, at::kDouble);
  const auto gradient = [&](const LossWeighting& weighting) {
    const at::Tensor raw = at::full({3}, 3.5, at::kDouble).requires_grad_();
    weighting.apply(model, raw, t, t).sum().backward();
    return raw.grad()[1].item<double>();
  };
  EXPECT_NEAR(gradient({.rule = LossWeight::none}), 1, 0);
  EXPECT_NEAR(gradient({.rule = LossWeight::learned}), std::exp(-0.4), 1e-14);
  // The denominator is a constant.
  EXPECT_NEAR(gradient({.rule = LossWeight::adaptive, .p = 0.75, .c = 0.1}),
              std::pow(3.6, -0.75), 1e-14);
  const at::Tensor raw = at::full({3}, 3.5, at::kDouble);
  const LossWeighting adaptive{.rule = LossWeight::adaptive, .p = 0.75, .c = 0.1};
  EXPECT_NEAR(adaptive.apply(model, raw, t, t)[0].item<double>(),
              3.5 * std::pow(3.6, -0.75), 1e-14);
}

// A teacher that says what it was told, wherever it is asked.
class FixedTeacher : public testing::AnalyticModel {
 public:
  FixedTeacher(ModelInfo info, at::Tensor says)
      : AnalyticModel(std::move(info)), says_(std::move(says)) {}
  Dual velocity(const Dual&, const Dual&, const Condition&, Context&) override {
    return says_;
  }

 private:
  at::Tensor says_;
};

// Oracle M: the semigradient is the gradient of the loss whose target is held fixed: the
// teacher and the place where it is asked.
TEST(LagrangianLoss, SemigradientAgainstFiniteDifferences) {
  const auto student = testing::random_reference_map(1);
  const Rows rows(32, 2);
  const at::Tensor x = rows.at_time(rows.s);
  Context context;
  const at::Tensor landing = student->map(x, rows.s, rows.t, {}, context).value.detach();
  FixedTeacher frozen(student->info(),
                      student->velocity(landing, rows.t, {}, context).value.detach());
  lagrangian(*student, *student, x, rows.s, rows.t).mean().backward();
  const Draw draw(9, 0, 1);
  double along = 0;
  std::vector<at::Tensor> direction;
  for (const at::Tensor& p : student->net().ordered()) {
    direction.push_back(draw.normal("d" + std::to_string(direction.size()), p.sizes())[0]
                            .to(at::kDouble));
    along += (direction.back() * p.grad()).sum().item<double>();
  }
  const at::NoGradGuard no_grad;
  const double step = 1e-5;
  const auto moved = [&](double by) {
    for (std::size_t i = 0; i < direction.size(); ++i)
      student->net().ordered()[i].add_(direction[i], by);
    return lagrangian(*student, frozen, x, rows.s, rows.t).mean().item<double>();
  };
  const double above = moved(step), below = moved(-2 * step);
  EXPECT_NEAR((above - below) / (2 * step), along, 1e-7 * std::abs(along));
  EXPECT_GT(std::abs(along), 1e-3);
}

// --- the reference programs ---------------------------------------------------------

struct Reference {
  MethodReference group{"flow_maps"};

  std::shared_ptr<ReferenceNet> net(const std::string& name, bool silu = false) const {
    return std::make_shared<ReferenceNet>(4, silu, [&](const std::string& part) {
      return group.at("net/" + name + "/" + part);
    });
  }
  std::shared_ptr<ReferenceMap> map(const std::string& name, bool learned = false) const {
    return std::make_shared<ReferenceMap>(net(name, name == "S"), 0.5,
                                          learned ? net("w") : nullptr);
  }
  const at::Tensor& batch(const std::string& name) const { return group.at("batch/" + name); }
  void check(const std::string& name, const char* what, const at::Tensor& got) const {
    EXPECT_LT(difference(got, group.at(name + "/" + what)), 1e-11) << name << " " << what;
  }
};

TEST(FlowMapReference, FlowMatching) {
  FM_NEED_METHOD_REFERENCE("flow_maps");
  const Reference r;
  for (const char* name : {"fm", "fm_smooth_act"}) {
    const auto model = r.map(r.group.config(name).string("net"));
    // x0 is stored as it is, b n.
    const Interpolated at_t =
        interpolate(r.batch("diag_x1"), r.batch("diag_x0"), r.batch("diag_t"), 1);
    r.check(name, "It", at_t.x);
    r.check(name, "It_dot", at_t.target);
    Context context;
    r.check(name, "v",
            model->velocity(at_t.x, r.batch("diag_t"), {}, context).value);
    const at::Tensor raw =
        diagonal_loss(*model, at_t.x, r.batch("diag_t"), at_t.target, {}, context);
    r.check(name, "loss", raw);
    raw.mean().backward();
    EXPECT_LT(difference(flat_gradient(model->net()),
                         r.group.at(std::string(name) + "/grad")), 1e-10) << name;
  }
}

// Trigonometric cases differ in the interpolant alone: x is taken from the file.
TEST(FlowMapReference, LagrangianSelfDistillation) {
  FM_NEED_METHOD_REFERENCE("flow_maps");
  const Reference r;
  const at::Tensor& s = r.batch("s");
  const at::Tensor& t = r.batch("t");
  for (const std::string name : {"lsd", "lsd_trig", "lsd_none", "lsd_detached",
                                 "lsd_other_teacher", "lsd_smooth_act"}) {
    const Config config = r.group.config(name);
    const auto student = r.map(config.string("net"));
    const auto teacher = config.string("teacher") == config.string("net")
                             ? student
                             : r.map(config.string("teacher"));
    const std::string stop = config.string("sgt", "convex");
    const at::Tensor x = r.group.at(name + "/Is");
    if (name != "lsd_trig")
      r.check(name, "Is", interpolate(r.batch("x1"), r.batch("x0"), s, 1).x);
    Context context;
    const Dual v =
        student->average_velocity(x, s, Dual(t, at::ones_like(t)), {}, context);
    const at::Tensor h = column_like(t - s, x), landing = x + h * v.value;
    r.check(name, "v", v.value);
    r.check(name, "dv_dt", v.tangent);
    r.check(name, "X", landing);
    r.check(name, "dX_dt", v.value + h * v.tangent);
    r.check(name, "b", teacher->velocity(landing, t, {}, context).value);
    const at::Tensor raw = lagrangian(*student, *teacher, x, s, t,
                                      stop == "convex" ? StopGradient::convex
                                      : stop == "none" ? StopGradient::none
                                                       : StopGradient::detached);
    r.check(name, "loss", raw);
    raw.mean().backward();
    EXPECT_LT(difference(flat_gradient(student->net()), r.group.at(name + "/grad")), 1e-10)
        << name;
  }
}

TEST(FlowMapReference, FrozenTeacher) {
  FM_NEED_METHOD_REFERENCE("flow_maps");
  const Reference r;
  testing::MixtureModel teacher(ModelKind::velocity, {2}, r.group.at("teacher/w"),
                                r.group.at("teacher/m"), r.group.at("teacher/c"), 0.5);
  Context context;
  r.check("teacher_velocity", "b",
          teacher.velocity(r.group.at("teacher_velocity/x"),
                           r.group.at("teacher_velocity/s"), {}, context).value);
  const struct { const char* name; StopGradient stop; } cases[] = {
      {"lmd", StopGradient::none},
      {"lmd_sg", StopGradient::convex},
      {"ayf_lmd", StopGradient::detached},
      // The authors' earlier code does not detach where the teacher is evaluated.
      {"peer_lagrangian_distill", StopGradient::none}};
  for (const auto& item : cases) {
    const auto student = r.map("A");
    const at::Tensor x = interpolate(r.batch("x1"), r.batch("x0"), r.batch("s"), 1).x;
    const at::Tensor raw = lagrangian(*student, teacher, x, r.batch("s"), r.batch("t"),
                                      item.stop);
    r.check(item.name, "loss", raw);
    raw.mean().backward();
    EXPECT_LT(difference(flat_gradient(student->net()),
                         r.group.at(std::string(item.name) + "/grad")), 1e-10)
        << item.name;
  }
}

// The whole objective: (sum over diagonal + sum over off-diagonal) / M of exp(-w) l + w.
TEST(FlowMapReference, WeightedTotals) {
  FM_NEED_METHOD_REFERENCE("flow_maps");
  const Reference r;
  const auto model = r.map("A", true);
  const LossWeighting learned{.rule = LossWeight::learned};
  Context context;
  const at::Tensor& diag_t = r.batch("diag_t");
  const Interpolated at_t = interpolate(r.batch("diag_x1"), r.batch("diag_x0"), diag_t, 1);
  const at::Tensor on = learned.apply(
      *model, diagonal_loss(*model, at_t.x, diag_t, at_t.target, {}, context), diag_t,
      diag_t);
  const at::Tensor x = interpolate(r.batch("x1"), r.batch("x0"), r.batch("s"), 1).x;
  const at::Tensor off = learned.apply(
      *model, lagrangian(*model, *model, x, r.batch("s"), r.batch("t")), r.batch("s"),
      r.batch("t"));
  const std::string name = "total_learned_w_counts";
  r.check(name, "w_diag", model->log_weight(diag_t, diag_t));
  r.check(name, "w_off", model->log_weight(r.batch("s"), r.batch("t")));
  r.check(name, "L_diag", on);
  r.check(name, "L_off", off);
  const at::Tensor total = (on.sum() + off.sum()) / 16;
  EXPECT_NEAR(total.item<double>(), r.group.item(name).number("value"), 1e-11);
  total.backward();
  EXPECT_LT(difference(flat_gradient(model->net()), r.group.at(name + "/grad")), 1e-10);
  EXPECT_LT(difference(flat_gradient(model->weights()), r.group.at(name + "/grad_w")),
            1e-10);
}

// The authors' set-up at eta = 3/4: 12 of 16 on the diagonal, w fixed at 1.
TEST(FlowMapReference, AuthorsTotal) {
  FM_NEED_METHOD_REFERENCE("flow_maps");
  const Reference r;
  const auto model = r.map("A");
  const auto part = [&](const char* name, int64_t from, int64_t to) {
    return r.group.at(std::string("full/") + name).slice(0, from, to);
  };
  Context context;
  const at::Tensor t = part("t", 0, 12);
  const Interpolated at_t = interpolate(part("x1", 0, 12), part("x0", 0, 12), t, 1);
  const at::Tensor on = diagonal_loss(*model, at_t.x, t, at_t.target, {}, context);
  const at::Tensor s = part("s", 12, 16);
  const at::Tensor x = interpolate(part("x1", 12, 16), part("x0", 12, 16), s, 1).x;
  const at::Tensor off = lagrangian(*model, *model, x, s, part("t", 12, 16));
  const at::Tensor total = (on.sum() + off.sum()) / 16 * std::exp(-1.0) + 1;
  EXPECT_NEAR(total.item<double>(), r.group.item("total_lsd").number("value"), 1e-11);
  total.backward();
  EXPECT_LT(difference(flat_gradient(model->net()), r.group.at("total_lsd/grad")), 1e-10);
}

// EDM's loss by NVlabs' loss.py, on its analytic mixture.
TEST(DenoisingLossReference, EqualsEdms) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference group("training");
  const Config config = group.config("loss_edm");
  class Mixture : public testing::MixtureModel {
   public:
    using MixtureModel::MixtureModel;
    void set_sigma_data(double s) { info_.sigma_data = s; }
  } model(ModelKind::denoiser, {2}, group.at("model/w"), group.at("model/m"),
          group.at("model/c"));
  model.set_sigma_data(config.number("sigma_data"));
  const at::Tensor sigma =
      (group.at("loss_edm/z") * config.number("P_std") + config.number("P_mean")).exp();
  Context context;
  const at::Tensor raw = denoising_loss(model, group.at("loss_edm/image"),
                                        group.at("loss_edm/eps"), sigma, {}, context);
  EXPECT_LT(difference(raw, group.at("loss_edm/loss").sum(1)), 1e-12);
}

}  // namespace
}  // namespace flowmap::distill
