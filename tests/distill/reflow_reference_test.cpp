// Reflow, annealing, flow-guided distillation and their samplers against the public programs
// of SlimFlow, BOSS and 2-rectified flow++.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>

#include "distill/reflow/annealing.h"
#include "distill/reflow/losses.h"
#include "flowmap/interpolant.h"
#include "flowmap/time_sampling.h"
#include "samplers/euler_paths.h"
#include "samplers/ode.h"
#include "samplers/straight.h"
#include "tests/support/flow_map_models.h"
#include "tests/support/training_reference.h"

namespace flowmap::distill {
namespace {

using testing::difference;
using testing::flat_gradient;
using testing::MethodReference;
using testing::MixtureModel;
using testing::ReferenceMap;
using testing::ReferenceNet;

// Their networks scale states by 1/2 inside; the noise of all paths has deviation 1.
class ReflowNet : public ReferenceMap {
 public:
  explicit ReflowNet(std::shared_ptr<ReferenceNet> net) : ReferenceMap(std::move(net), 0.5) {
    info_.kind = ModelKind::velocity;
    info_.base_std = 1;
  }
};

struct ReflowReference {
  MethodReference group{"reflow"};
  Context context;
  MixtureModel mixture{ModelKind::velocity, {2}, group.at("teacher/w"),
                       group.at("teacher/m"), group.at("teacher/c")};

  std::shared_ptr<ReflowNet> net(const std::string& name) const {
    return std::make_shared<ReflowNet>(
        std::make_shared<ReferenceNet>(4, false, [&](const std::string& part) {
          return group.at("net/" + name + "/" + part);
        }));
  }
  const at::Tensor& at(const std::string& name) const { return group.at(name); }
  void check(const std::string& name, const at::Tensor& got) const {
    EXPECT_LT(difference(got, at(name)), 1e-11) << name;
  }
  // The mean of `raw` and its gradient.
  void check_loss(const std::string& name, const ReflowNet& student,
                  const at::Tensor& raw) const {
    EXPECT_NEAR(raw.mean().item<double>(), group.item(name).number("loss"), 1e-11) << name;
    raw.mean().backward();
    EXPECT_LT(difference(flat_gradient(student.net()), at(name + "/grad")), 1e-10) << name;
  }
  at::Tensor velocity(Model& model, const at::Tensor& x, const at::Tensor& t) {
    return model.velocity(x, t, {}, context).value;
  }
};

#define FM_REFLOW(r)                    \
  FM_NEED_METHOD_REFERENCE("reflow");   \
  ReflowReference r

TEST(ReflowReference, RandomnessSchedules) {
  FM_REFLOW(r);
  const Config file = Config::from_file(testing::method_file("reflow", ".json"));
  const Config beta = file.child("beta");
  const auto schedule = [&](const std::string& rule) {
    // Their steps as images of batches of one; a bare number is in thousands.
    return read_annealing(Config::from_text(
        R"({"randomness": ")" + rule + R"(", )" +
            (rule == "constant" ? R"("beta": 0.3)"
                                : R"("warmup": )" +
                                      std::to_string(beta.integer("W") / 1000)) +
            "}", "test"));
  };
  int rows = 0;
  for (const Config& row : beta.children("rows")) {
    for (const std::string rule : {"linear", "cosine", "exponential", "constant"})
      EXPECT_NEAR(schedule(rule).beta(row.integer("k")), row.number(rule), 1e-15)
          << rule << " " << row.integer("k");
    ++rows;
  }
  EXPECT_EQ(rows, 8);
}

TEST(ReflowReference, Annealing) {
  FM_REFLOW(r);
  for (const std::string& name : r.group.names("annealing_")) {
    const Config config = r.group.config(name);
    const AnnealingSchedule schedule{AnnealingSchedule::Rule::linear, config.integer("W")};
    const double beta = schedule.beta(config.integer("k"));
    EXPECT_NEAR(beta, config.number("beta"), 1e-15);
    const at::Tensor noise =
        annealed_noise(r.at("pairs/noise"), r.at(name + "/fresh"), beta);
    r.check(name + "/n_beta", noise);
    const double eps = config.number("eps");
    const at::Tensor t = r.at(name + "/u") * (1 - eps) + eps;
    r.check(name + "/t", t);
    const Interpolated at_t = interpolate(r.at("pairs/data"), noise, t, 1);
    r.check(name + "/x_t", at_t.x);
    r.check(name + "/target", at_t.target);
    const auto student = r.net("student");
    r.check_loss(name, *student,
                 ReflowLoss{}(at_t.x, r.velocity(*student, at_t.x, t), at_t.target,
                              r.at("pairs/data"), t));
  }
}

TEST(ReflowReference, LossesAtAllTimes) {
  FM_REFLOW(r);
  for (const std::string& name : r.group.names("reflow_")) {
    const at::Tensor t = r.at(name + "/t");
    const Interpolated at_t = interpolate(r.at("pairs/data"), r.at("pairs/noise"), t, 1);
    const auto student = r.net("student");
    at::Tensor raw = ReflowLoss{}(at_t.x, r.velocity(*student, at_t.x, t), at_t.target,
                                  r.at("pairs/data"), t);
    if (!r.group.config(name).boolean("reduce_mean"))  // half of the sum
      raw = raw * (0.5 * static_cast<double>(at_t.x.size(1)));
    r.check(name + "/per_sample", raw);
    r.check_loss(name, *student, raw);
  }
}

// Their schedules are our samplers' affine maps of a draw.
TEST(ReflowReference, Times) {
  FM_REFLOW(r);
  const auto sampler = [](const std::string& text) {
    return read_time_sampler(Config::from_text(text, "test"));
  };
  const Draw draw(3, 0, 8);
  const struct { const char* name; const char* times; } fixed[] = {
      {"t_t0", R"({"type": "point", "value": 0, "low": 1e-3})"},
      {"t_t1", R"({"type": "point", "value": 1, "low": 1e-3})"},
      {"t_fix_0.5", R"({"type": "point", "value": 0.5, "low": 1e-3})"}};
  for (const auto& item : fixed)
    EXPECT_LT(difference(sampler(item.times).sample(draw, "time"),
                         r.at(std::string(item.name) + "/t")), 1e-7) << item.name;
  const struct { const char* name; const char* times; } drawn[] = {
      {"t_uniform", R"({"low": 1e-3})"},
      {"t_range_0.2_0.8", R"({"low": 0.2, "high": 0.8})"}};
  for (const auto& item : drawn) {
    const TimeSampler s = sampler(item.times);
    r.check(std::string(item.name) + "/t",
            s.low + (s.high - s.low) * r.at(std::string(item.name) + "/u"));
    const at::Tensor u = draw.uniform("time", {});
    EXPECT_LT(difference(s.sample(draw, "time"), s.low + (s.high - s.low) * u), 1e-7);
  }
  // k-step distillation: every knot, shifted by eps.
  const TimeSampler knots = sampler(R"({"type": "knots", "count": 4, "low": 1e-3})");
  const at::Tensor k = draw.integer("time", {}, 4).to(at::kDouble);
  EXPECT_LT(difference(knots.sample(draw, "time"), k / 4 * 0.999 + 0.001), 1e-7);
  r.check("reflow_4_mean/t", r.at("reflow_4_mean/k").to(at::kDouble) / 4 * 0.999 + 0.001);
}

TEST(ReflowReference, UShape) {
  FM_REFLOW(r);
  const TimeSampler sampler{.rule = TimeSampler::Rule::u_shape, .a = 4};
  const at::Tensor u = r.at("u_shape/u");
  const at::Tensor no = at::zeros({u.size(0)}, at::kBool), yes = no.logical_not();
  r.check("u_shape/t_before_flip", sampler.u_shape(u, no));
  const auto squeezed = [](const at::Tensor& t) { return 1e-5 + (1 - 2e-5) * t; };
  r.check("u_shape/t_low", squeezed(sampler.u_shape(u, no)));
  r.check("u_shape/t_high", squeezed(sampler.u_shape(u, yes)));
}

TEST(ReflowReference, PseudoHuber) {
  FM_REFLOW(r);
  r.check("huber/loss", pseudo_huber(r.at("huber/x"), r.at("huber/y")));
}

// One coin for a batch, after the mixing, strictly above 1/2: the same as flipping before,
// where fresh noise is flipped too.
TEST(ReflowReference, Flips) {
  FM_REFLOW(r);
  for (const std::string& name : r.group.names("hflip_")) {
    const Config config = r.group.config(name);
    const bool flipped = config.boolean("flipped");
    EXPECT_EQ(config.number("coin") > 0.5, flipped);
    const auto side = [&](const char* part) {
      const at::Tensor& x = r.at(name + "/" + part);
      return flipped ? x.flip({3}) : x;
    };
    r.check(name + "/out_data", side("data"));
    r.check(name + "/out_noise",
            annealed_noise(side("noise"), side("fresh"), config.number("beta")));
  }
}

TEST(ReflowReference, TwoSteps) {
  FM_REFLOW(r);
  for (const std::string name : {"fgd", "fgd_guide_first", "fgd_analytic_guide"}) {
    const double eps = r.group.config(name).number("eps");
    const at::Tensor noise = r.at(name + "/noise"), t = r.at(name + "/t");
    const auto student = r.net("student"), guide = r.net("guide");
    const at::Tensor early = at::full_like(t, eps);
    const at::Tensor own = r.velocity(*student, noise, early);
    const at::Tensor first =
        name == "fgd_guide_first" ? r.velocity(*guide, noise, early) : own;
    Model& teacher = name == "fgd_analytic_guide" ? static_cast<Model&>(r.mixture) : *guide;
    const TwoSteps steps = two_step_target(teacher, noise, first, t, {}, r.context);
    if (name == "fgd_analytic_guide") {
      r.check(name + "/x_mid", steps.middle);
      r.check(name + "/target", steps.end);
      r.check(name + "/pred", own);
    }
    EXPECT_FALSE(steps.end.requires_grad());
    r.check_loss(name, *student, EndLoss{}(noise, own, steps.end));
    for (const at::Tensor& p : guide->parameters()) EXPECT_FALSE(p.grad().defined());
  }
}

TEST(ReflowReference, DistillationStep) {
  FM_REFLOW(r);
  const at::Tensor noise = r.at("pairs/noise"), data = r.at("pairs/data");
  const at::Tensor t = r.at("distill_step/t"), fresh = r.at("distill_step/noise_fresh");
  const at::Tensor early = at::full_like(t, r.group.config("distill_step").number("eps"));
  const at::Tensor leaking = interpolate(data, noise, early, 1).x;
  r.check("distill_step/x_direct", leaking);
  const auto student = r.net("student");
  const at::Tensor direct =
      EndLoss{}(noise, r.velocity(*student, leaking, early), data);
  const at::Tensor own = r.velocity(*student, fresh, early);
  // Which guide the file's step had.
  const auto guide = r.net("guide");
  const TwoSteps steps = two_step_target(*guide, fresh, own, t, {}, r.context);
  r.check_loss("distill_step", *student, direct + EndLoss{}(fresh, own, steps.end));
}

TEST(ReflowReference, EulerPairs) {
  FM_REFLOW(r);
  for (const std::string name : {"pairs_euler_10_exact", "pairs_euler_40_exact"}) {
    const int64_t steps = r.group.config(name).integer("N");
    const samplers::EulerPaths paths =
        samplers::euler_paths(r.mixture, r.at(name + "/noise"), {}, steps);
    r.check(name + "/states", paths.states);
    r.check(name + "/data", paths.states[-1]);
  }
}

// All velocity of a data set of points: v = sum softmax(-|x - t y|^2 / 2(1-t)^2) (y - x)/(1-t).
TEST(ReflowReference, EmpiricalVelocity) {
  FM_REFLOW(r);
  const at::Tensor images = r.at("empirical_velocity/images").flatten(1);
  const int64_t n = images.size(0);
  MixtureModel points(ModelKind::velocity, {3, 2, 2},
                      at::full({n}, 1.0 / static_cast<double>(n), at::kDouble), images,
                      at::zeros({n}, at::kDouble));
  const at::Tensor v =
      r.velocity(points, r.at("empirical_velocity/x"), r.at("empirical_velocity/t"));
  // By size: 1/(1-t) at t = 0.999 leaves the rounding of x - t y.
  EXPECT_LT(difference(v, r.at("empirical_velocity/v")), 1e-11);
}

TEST(ReflowReference, Straightness) {
  FM_REFLOW(r);
  const samplers::EulerPaths paths = samplers::euler_paths(
      r.mixture, r.at("straightness/noise"), {}, r.group.config("straightness").integer("N"));
  r.check("straightness/data", paths.states[-1]);
  const at::Tensor squared = samplers::deviation_by_time(paths);
  const Config& item = r.group.item("straightness");
  EXPECT_NEAR(squared.mean().item<double>(), item.number("squared"), 1e-11);
  EXPECT_NEAR(squared.sqrt().mean().item<double>(), item.number("unsquared_norm"), 1e-11);
  EXPECT_NEAR(squared.mean().item<double>() / 2, item.number("per_pixel"), 1e-11);
  EXPECT_LT(samplers::pair_error(paths.states[-1], r.at("straightness/data"))
                .max().item<double>(), 1e-22);
}

// Their clock falls from 1 - 1e-5 to 0.
TEST(ReflowReference, SamplersOfRectifiedFlowPlusPlus) {
  FM_REFLOW(r);
  for (const std::string& name : r.group.names("rfpp_")) {
    SCOPED_TRACE(name);
    const Config config = r.group.config(name);
    const bool heun = config.string("solver") == "heun";
    const bool straight = config.string("sampler") == "new";
    at::Tensor states = r.at(name + "/states");
    const int64_t steps = states.size(0) - 1;
    samplers::Schedule schedule{{1e-5}, false, "test"};
    // Our Heun corrects the last step too, theirs is Euler's: compared up to there.
    const bool without_last = heun && !straight;
    if (without_last) states = states.slice(0, 0, steps);
    for (int64_t k = 1; k < states.size(0); ++k)
      schedule.times.push_back(static_cast<double>(k) / static_cast<double>(steps));
    // Their first state carries its factor already.
    const at::Tensor latents = r.at(name + "/z1") / (1 - 1e-5);
    testing::CountingModel counted(r.mixture);
    at::Tensor end;
    if (straight) {
      end = samplers::solve_straight(counted, latents, {}, schedule, heun);
    } else {
      end = samplers::make_sampler(heun ? "heun" : "euler", Config())
                ->sample(counted, latents, {}, schedule, Draw(1, 0, latents.size(0)));
    }
    EXPECT_LT(difference(end, states[-1]), 1e-11);
    EXPECT_EQ(counted.evaluations(),
              r.group.item(name).integer("nfe") - (without_last ? 1 : 0));
    for (int64_t k = 0; k < counted.evaluations(); ++k)
      EXPECT_LT(difference(counted.inputs[static_cast<std::size_t>(k)],
                           r.at(name + "/net_x")[k]), 1e-11) << k;
  }
}

}  // namespace
}  // namespace flowmap::distill
