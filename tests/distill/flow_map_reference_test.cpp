// The members of the flow-map family against the reference programs: per-sample losses,
// intermediate tensors, parameter gradients, time samplers.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "distill/flow_map/losses.h"
#include "distill/regression_losses.h"
#include "flowmap/interpolant.h"
#include "flowmap/ops.h"
#include "flowmap/time_sampling.h"
#include "tests/support/analytic_models.h"
#include "tests/support/flow_map_models.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using testing::difference;
using testing::flat_gradient;
using testing::MethodReference;
using testing::ReferenceMap;
using testing::ReferenceNet;

std::shared_ptr<ReferenceMap> load_map(const MethodReference& group,
                                       const std::string& net, double rescale = 0.5) {
  return std::make_shared<ReferenceMap>(
      std::make_shared<ReferenceNet>(4, net == "S",
                                     [&](const std::string& part) {
                                       return group.at("net/" + net + "/" + part);
                                     }),
      rescale);
}

// flow_maps: samples of the file, nets A, B, S and the analytic teacher.
struct FlowMaps {
  MethodReference group{"flow_maps"};
  Context context;
  testing::MixtureModel mixture{ModelKind::velocity,    {2}, group.at("teacher/w"),
                                group.at("teacher/m"), group.at("teacher/c"), 0.5};

  const at::Tensor& batch(const std::string& name) const { return group.at("batch/" + name); }
  MapSamples samples(Interpolant interpolant = Interpolant::linear) const {
    const Interpolated at_s =
        interpolate(batch("x1"), batch("x0"), batch("s"), 1, interpolant);
    return {at_s.x, at_s.target, batch("s"), batch("t"), {}, {}};
  }
  void check(const std::string& name, const char* what, const at::Tensor& got) const {
    EXPECT_LT(difference(got, group.at(name + "/" + what)), 1e-11) << name << " " << what;
  }
  // The loss [B] and the gradient of its mean.
  void check_loss(const std::string& name, const ReferenceMap& student,
                  const at::Tensor& raw) const {
    check(name, "loss", raw);
    raw.mean().backward();
    EXPECT_LT(difference(flat_gradient(student.net()), group.at(name + "/grad")), 1e-10)
        << name;
  }
  // Calls visit(name, student, teacher) with the nets that the case names.
  template <class Visit>
  void each(const std::vector<std::string>& names, const Visit& visit) const {
    for (const std::string& name : names) {
      SCOPED_TRACE(name);
      const Config config = group.config(name);
      const auto student = load_map(group, config.string("net"));
      const std::string other = config.string("teacher", config.string("net"));
      const auto teacher =
          other == config.string("net") ? student : load_map(group, other);
      visit(name, config, *student, *teacher);
    }
  }
};

#define FM_FLOW_MAPS(r)                       \
  FM_NEED_METHOD_REFERENCE("flow_maps");      \
  FlowMaps r

Interpolant interpolant_of(const Config& config) {
  return config.string("ip", "linear") == "trig" ? Interpolant::trigonometric
                                                 : Interpolant::linear;
}

StopGradient stop_of(const Config& config, const char* fallback) {
  const std::string name = config.string("sgt", fallback);
  return name == "convex" ? StopGradient::convex
         : name == "none" ? StopGradient::none
         : name == "full" ? StopGradient::full
                          : StopGradient::detached;
}

TEST(FlowMapFamily, TrigonometricInterpolant) {
  FM_FLOW_MAPS(r);
  const Interpolated at_t =
      interpolate(r.batch("diag_x1"), r.batch("diag_x0"), r.batch("diag_t"), 1,
                  Interpolant::trigonometric);
  r.check("fm_trig", "It", at_t.x);
  r.check("fm_trig", "It_dot", at_t.target);
  const auto student = load_map(r.group, "A");
  r.check_loss("fm_trig", *student,
               diagonal_loss(*student, at_t.x, r.batch("diag_t"), at_t.target, {},
                             r.context));
  r.check("lsd_trig", "Is", r.samples(Interpolant::trigonometric).x);
}

TEST(FlowMapFamily, Eulerian) {
  FM_FLOW_MAPS(r);
  r.each({"esd", "esd_trig", "esd_convex", "esd_none", "esd_detached", "esd_other_teacher",
          "esd_smooth_act"},
         [&](const std::string& name, const Config& config, ReferenceMap& student,
             ReferenceMap& teacher) {
           const MapSamples at = r.samples(interpolant_of(config));
           r.check(name, "Is", at.x);
           const Dual in_s = student.average_velocity(
               at.x, Dual(at.s, at::ones_like(at.s)), at.t, {}, r.context);
           const at::Tensor h = column_like(at.t - at.s, at.x);
           r.check(name, "v", in_s.value);
           r.check(name, "dv_ds", in_s.tangent);
           r.check(name, "dX_ds", h * in_s.tangent - in_s.value);
           r.check_loss(name, student,
                        eulerian_loss(student, teacher, at, r.context,
                                      stop_of(config, "full")));
         });
}

TEST(FlowMapFamily, EulerianFromAFrozenVelocity) {
  FM_FLOW_MAPS(r);
  r.each({"emd", "emd_sg"}, [&](const std::string& name, const Config& config,
                                ReferenceMap& student, ReferenceMap&) {
    r.check_loss(name, student,
                 eulerian_loss(student, r.mixture, r.samples(), r.context,
                               stop_of(config, "full")));
  });
}

// A velocity that is what it is.
class Given : public testing::AnalyticModel {
 public:
  explicit Given(at::Tensor v)
      : AnalyticModel({.kind = ModelKind::velocity, .sample_shape = {2}}), v_(std::move(v)) {}
  Dual velocity(const Dual&, const Dual&, const Condition&, Context&) override { return v_; }

 private:
  at::Tensor v_;
};

// The authors' consistency training: the sample's velocity in the Eulerian residual.
TEST(FlowMapFamily, EulerianFromTheSample) {
  FM_FLOW_MAPS(r);
  const auto student = load_map(r.group, "A");
  const MapSamples at = r.samples();
  Given given(at.velocity);
  r.check_loss("peer_eulerian_ct", *student,
               eulerian_loss(*student, given, at, r.context, StopGradient::full));
}

TEST(FlowMapFamily, Semigroup) {
  FM_FLOW_MAPS(r);
  r.each({"psd_midpoint", "psd_uniform", "psd_midpoint_trig", "psd_uniform_trig",
          "psd_uniform_none", "psd_uniform_unpreconditioned", "psd_other_teacher",
          "psd_smooth_act"},
         [&](const std::string& name, const Config& config, ReferenceMap& student,
             ReferenceMap& teacher) {
           const MapSamples at = r.samples(interpolant_of(config));
           const at::Tensor g = config.string("split") == "uniform"
                                    ? r.batch("gamma")
                                    : at::full_like(at.s, 0.5);
           r.check(name, "u", g * at.s + (1 - g) * at.t);
           SemigroupOptions options;
           options.stop = stop_of(config, "convex");
           options.preconditioned = !config.boolean("unconditioned", false);
           r.check_loss(name, student,
                        semigroup_loss(student, teacher, at, g, r.context, options));
         });
}

// The first round of progressive distillation: two Euler steps of a frozen velocity, the
// residual of X itself (h^2 left in).
TEST(FlowMapFamily, SemigroupFromAFrozenVelocity) {
  FM_FLOW_MAPS(r);
  for (const char* name : {"pfmm_euler_midpoint", "pfmm_euler_uniform"}) {
    const auto student = load_map(r.group, "A");
    const MapSamples at = r.samples();
    const at::Tensor g = r.group.config(name).string("split", "midpoint") == "uniform"
                             ? r.batch("gamma")
                             : at::full_like(at.s, 0.5);
    r.check_loss(name, *student,
                 semigroup_loss(*student, r.mixture, at, g, r.context,
                                {.preconditioned = false}));
  }
  const auto student = load_map(r.group, "A"), frozen = load_map(r.group, "B");
  const MapSamples at = r.samples();
  r.check_loss("peer_distill", *student,
               semigroup_loss(*student, *frozen, at, at::full_like(at.s, 0.5), r.context,
                              {.preconditioned = false}));
}

TEST(FlowMapFamily, DetachedTargets) {
  FM_FLOW_MAPS(r);
  const MapSamples at = r.samples();
  const at::Tensor taught = r.mixture.velocity(at.x, at.s, {}, r.context).value;
  const auto run = [&](const char* name, const auto& base, const auto& tangent) {
    const auto student = load_map(r.group, "A");
    const at::Tensor own = student->velocity(at.x, at.s, {}, r.context).value.detach();
    const at::Tensor a = base(own), w = tangent(own);
    r.check(name, "tangent", w);
    r.check_loss(name, *student, tangent_loss(*student, at, a, w, r.context));
  };
  const auto sample = [&](const at::Tensor&) { return at.velocity; };
  const auto teacher = [&](const at::Tensor&) { return taught; };
  const auto itself = [&](const at::Tensor& own) { return own; };
  run("consistency_distillation", teacher, teacher);
  run("meanflow_plain", sample, sample);
  run("meanflow_own_velocity", itself, itself);
  run("improved_meanflow", sample, itself);
}

TEST(FlowMapFamily, AlphaFlow) {
  FM_FLOW_MAPS(r);
  const MapSamples at = r.samples();
  for (const double alpha : {1.0, 0.5, 0.125}) {
    const std::string name =
        alpha == 1 ? "alpha_flow_1.0" : alpha == 0.5 ? "alpha_flow_0.5" : "alpha_flow_0.125";
    const auto student = load_map(r.group, "A");
    r.check_loss(name, *student,
                 alpha_flow_loss(*student, *student, at, at.velocity, alpha, r.context));
  }
}

TEST(FlowMapFamily, ChordsAndBothSides) {
  FM_FLOW_MAPS(r);
  {
    const auto student = load_map(r.group, "A");
    r.check_loss("chord", *student,
                 chord_loss(*student, r.mixture, r.samples(), 64, r.context));
  }
  const Interpolated at_t = interpolate(r.batch("x1"), r.batch("x0"), r.batch("t"), 1);
  const MapSamples at{at_t.x, at_t.target, r.batch("s"), r.batch("t"), {}, {}};
  r.check("fmm_two_sided", "I", at.x);
  for (const bool round_trip : {true, false}) {
    const auto student = load_map(r.group, "A");
    r.check_loss(round_trip ? "fmm_two_sided" : "peer_fmm_lagrangian", *student,
                 two_sided_loss(*student, at, r.context, round_trip));
  }
}

// The map of one net for a class, of another for none.
class TwoNets : public testing::AnalyticModel {
 public:
  TwoNets(std::shared_ptr<ReferenceMap> some, std::shared_ptr<ReferenceMap> none)
      : AnalyticModel(with_classes(some->info())), some_(some), none_(none) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    return average_velocity(x, t, t, c, ctx);
  }
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition& c,
                        Context& ctx) override {
    return (c.class_labels.defined() ? some_ : none_)->average_velocity(x, s, t, {}, ctx);
  }

 private:
  static ModelInfo with_classes(ModelInfo info) {
    info.label_dim = 1;
    return info;
  }
  std::shared_ptr<ReferenceMap> some_, none_;
};

TEST(FlowMapFamily, GuidedTeacher) {
  FM_FLOW_MAPS(r);
  // The file's unconditional net is B.
  const auto student = load_map(r.group, "A");
  TwoNets both(student, load_map(r.group, "B"));
  MapSamples at = r.samples();
  at.condition.class_labels = at::ones({at.x.size(0), 1}, at::kDouble);
  at.teacher_guidance = at::full_like(at.s, 3.0);
  r.check_loss("lsd_guided_3.0", *student,
               lagrangian_loss(both, both, at, r.context, StopGradient::convex));
}

// The authors' set-up at eta = 3/4: 12 of 16 on the diagonal, w fixed at 1.
TEST(FlowMapFamily, AuthorsTotals) {
  FM_FLOW_MAPS(r);
  for (const char* name : {"total_lsd", "total_esd", "total_psd_midpoint",
                           "total_psd_uniform"}) {
    const auto model = load_map(r.group, "A");
    const auto part = [&](const char* what, int64_t from, int64_t to) {
      return r.group.at(std::string("full/") + what).slice(0, from, to);
    };
    const at::Tensor t = part("t", 0, 12);
    const Interpolated at_t = interpolate(part("x1", 0, 12), part("x0", 0, 12), t, 1);
    const at::Tensor on = diagonal_loss(*model, at_t.x, t, at_t.target, {}, r.context);
    const at::Tensor s = part("s", 12, 16);
    const Interpolated at_s = interpolate(part("x1", 12, 16), part("x0", 12, 16), s, 1);
    const MapSamples at{at_s.x, at_s.target, s, part("t", 12, 16), {}, {}};
    const std::string kind = name;
    const at::Tensor off =
        kind == "total_lsd"
            ? lagrangian_loss(*model, *model, at, r.context, StopGradient::convex)
        : kind == "total_esd"
            ? eulerian_loss(*model, *model, at, r.context, StopGradient::full)
            : semigroup_loss(*model, *model, at,
                             kind == "total_psd_uniform" ? part("gamma", 12, 16)
                                                         : at::full_like(s, 0.5),
                             r.context);
    const at::Tensor total = (on.sum() + off.sum()) / 16 * std::exp(-1.0) + 1;
    EXPECT_NEAR(total.item<double>(), r.group.item(name).number("value"), 1e-11) << name;
    total.backward();
    EXPECT_LT(difference(flat_gradient(model->net()), r.group.at(kind + "/grad")), 1e-10)
        << name;
  }
}

// --- other people's programs, on their clock: tau = 0 data, u = -v, s = 1 - tau ----------

struct Peers {
  MethodReference group{"flow_maps_peers"};
  Context context;
  const at::Tensor& batch(const std::string& name) const { return group.at("batch/" + name); }
  MapSamples samples() const {
    const at::Tensor s = 1 - batch("tau"), t = 1 - batch("r");
    const Interpolated at_s = interpolate(batch("data"), batch("noise"), s, 1);
    return {at_s.x, at_s.target, s, t, {}, {}};
  }
  // `loss`: a scalar.
  void check_total(const std::string& name, const ReferenceMap& student,
                   const at::Tensor& loss) const {
    EXPECT_NEAR(loss.item<double>(), group.item(name).number("loss"), 1e-11) << name;
    loss.backward();
    EXPECT_LT(difference(flat_gradient(student.net()), group.at(name + "/grad")), 1e-10)
        << name;
  }
};

TEST(FlowMapPeers, MeanFlow) {
  FM_NEED_METHOD_REFERENCE("flow_maps_peers");
  Peers r;
  const MapSamples at = r.samples();
  for (const std::string& name : r.group.names("py_meanflow_")) {
    const Config config = r.group.config(name);
    const auto student = load_map(r.group, "A");
    const at::Tensor raw =
        tangent_loss(*student, at, at.velocity, at.velocity, r.context);
    EXPECT_LT(difference(raw, r.group.at(name + "/l")), 1e-11) << name;
    const LossWeighting weight{LossWeight::adaptive, config.number("norm_p"),
                               config.number("norm_eps")};
    r.check_total(name, *student, weight.apply(*student, raw, at.s, at.t).mean());
  }
  // One port squares what is squared already; we do not, but the residual is the same.
  for (const std::string name : {"zhuyu_uniform", "zhuyu_adaptive"}) {
    const auto student = load_map(r.group, "A");
    const at::Tensor raw =
        tangent_loss(*student, at, at.velocity, at.velocity, r.context);
    const at::Tensor square = raw.square();
    const at::Tensor loss =
        name == "zhuyu_uniform" ? raw : square / (square.detach() + 1e-3);
    EXPECT_LT(difference(loss, r.group.at(name + "/per_sample")), 1e-11);
    r.check_total(name, *student, loss.mean());
  }
}

TEST(FlowMapPeers, GuidedMeanFlow) {
  FM_NEED_METHOD_REFERENCE("flow_maps_peers");
  Peers r;
  for (const std::string& name : r.group.names("meanflow_guided_")) {
    const Config config = r.group.config(name);
    const auto student = load_map(r.group, "A");
    TwoNets both(student, load_map(r.group, "null"));
    MapSamples at = r.samples();
    at.condition.class_labels = at::ones({at.x.size(0), 1}, at::kDouble);
    const at::Tensor mixed = mixed_velocity(both, at, config.number("omega"),
                                            config.number("kappa"), r.context);
    const at::Tensor inside = r.batch("tau")
                                  .ge(config.number("t_start"))
                                  .logical_and(r.batch("tau").le(config.number("t_end")));
    const at::Tensor w = at::where(column_like(inside, at.x), mixed, at.velocity);
    const at::Tensor raw = tangent_loss(both, at, w, w, r.context);
    const LossWeighting weight{LossWeight::adaptive, config.number("norm_p"),
                               config.number("norm_eps")};
    r.check_total(name, *student, weight.apply(both, raw, at.s, at.t).mean());
  }
}

TEST(FlowMapPeers, FastGen) {
  FM_NEED_METHOD_REFERENCE("flow_maps_peers");
  Peers r;
  const MapSamples at = r.samples();
  for (const std::string name : {"fastgen_l2", "fastgen_opt_grad"}) {
    const Config config = r.group.config(name);
    const auto student = load_map(r.group, "A");
    TangentOptions options;
    options.warmup = r.group.item(name).number("warmup");
    options.max_gap = config.number("max_t");
    options.normalize = name == "fastgen_opt_grad";
    options.c = config.number("norm_const");
    at::Tensor loss =
        tangent_loss(*student, at, at.velocity, at.velocity, r.context, options);
    if (!options.normalize)
      loss = LossWeighting{LossWeight::adaptive, 1, config.number("norm_const")}.apply(
          *student, loss, at.s, at.t);
    EXPECT_LT(difference(loss, r.group.at(name + "/loss")), 1e-11) << name;
    loss.mean().backward();
    EXPECT_LT(difference(flat_gradient(student->net()), r.group.at(name + "/grad")), 1e-10)
        << name;
  }
}

// Their pairs come out of the same normals; which ones lie on the diagonal is up to them.
TEST(FlowMapPeers, TimeSamplers) {
  FM_NEED_METHOD_REFERENCE("flow_maps_peers");
  const MethodReference group("flow_maps_peers");
  for (const std::string name : {"time_sampler_v0", "time_sampler_v1"}) {
    const Config config = group.config(name);
    TimePairSampler sampler;
    sampler.mean = -config.number("P_mean_t");
    sampler.std = config.number("P_std_t");
    sampler.mean_t = -config.number("P_mean_r");
    sampler.std_t = config.number("P_std_r");
    sampler.rule = TimePairSampler::Rule::two_logit_normals;
    // v0 puts the pair in order instead: both rules agree where it was in order.
    const auto [s, t] =
        sampler.from_normals(-group.at(name + "/z_t"), -group.at(name + "/z_r"));
    const at::Tensor tau = group.at(name + "/tau"), r = group.at(name + "/r");
    const at::Tensor on = r.eq(tau);
    const at::Tensor ordered =
        (sampler.std_t * group.at(name + "/z_r") - sampler.mean_t)
            .le(sampler.std * group.at(name + "/z_t") - sampler.mean);
    const at::Tensor use = name == "time_sampler_v0"
                               ? ordered.logical_and(on.logical_not())
                               : on.logical_not();
    EXPECT_GT(use.sum().item<int64_t>(), 8);
    EXPECT_LT(difference((1 - s).index({use}), tau.index({use})), 1e-12) << name;
    EXPECT_LT(difference((1 - t).index({use}), r.index({use})), 1e-12) << name;
  }
}

// kvfrans/shortcut-models: bootstrap rows jump 2^-dt_base in two half steps of the average
// (net "null"), flow rows regress velocities at the smallest step.
TEST(FlowMapPeers, Shortcut) {
  FM_NEED_METHOD_REFERENCE("flow_maps_peers");
  Peers r;
  for (const std::string& name : r.group.names("shortcut_")) {
    const Config config = r.group.config(name);
    const auto student = load_map(r.group, "A"), average = load_map(r.group, "null");
    const int64_t rows = config.integer("bootstrap"), all = config.integer("batch");
    const at::Tensor s = r.group.at(name + "/t");
    const at::Tensor t = s + at::pow(2, -r.group.at(name + "/dt_base").to(at::kDouble));
    const at::Tensor x = r.group.at(name + "/x_t");
    const auto part = [&](int64_t from, int64_t to) {
      return MapSamples{x.slice(0, from, to), {}, s.slice(0, from, to),
                        t.slice(0, from, to), {}, {}};
    };
    const MapSamples jumps = part(0, rows);
    const at::Tensor bootstrap =
        semigroup_loss(*student, *average, jumps, at::full_like(jumps.s, 0.5), r.context,
                       {.clip = config.number("clip")});
    const at::Tensor flow =
        average_velocity_loss(*student, part(rows, all),
                              r.group.at(name + "/v_target").slice(0, rows), r.context);
    r.check_total(name, *student,
                  (bootstrap.sum() + flow.sum()) / static_cast<double>(2 * all));
  }
}

}  // namespace
}  // namespace flowmap::distill
