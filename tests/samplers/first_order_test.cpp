// Euler, Heun and jumps of other programs: diffusers, k-diffusion, diff-sampler, SlimFlow,
// consistency models, the flow-map and MeanFlow codes. Their states on their own knots.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <vector>

#include "samplers/ddim.h"
#include "samplers/edm.h"
#include "samplers/jumps.h"
#include "tests/samplers/sampler_reference.h"
#include "tests/support/flow_map_models.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::AnalyticModel;
using flowmap::testing::CountingModel;
using flowmap::testing::difference;
using flowmap::testing::flow_knots;
using flowmap::testing::MethodReference;
using flowmap::testing::no_noise;
using flowmap::testing::recorded_in_order;
using flowmap::testing::recorded_noise;
using flowmap::testing::sigma_knots;
using flowmap::testing::VelocityOf;

// diffusers lists the levels of Heun's calls: all but the first and the last are twice.
at::Tensor without_pairs(const at::Tensor& sigmas) {
  std::vector<double> kept;
  for (int64_t i = 0; i < sigmas.numel(); ++i) {
    const double level = sigmas[i].item<double>();
    if (kept.empty() || level < kept.back()) kept.push_back(level);
  }
  return at::tensor(kept, at::kDouble);
}

void expect_calls(const CountingModel& counting, const MethodReference& r,
                  const std::string& name) {
  EXPECT_EQ(counting.evaluations(), r.item(name).integer("nfe"));
}

TEST(FirstOrderReference, DiffusersEulerAndHeun) {
  FM_NEED_METHOD_REFERENCE("samplers_diffusers");
  const MethodReference r("samplers_diffusers");
  int compared = 0;
  for (const char* prefix : {"euler_", "heun_", "edm_euler_"})
    for (const std::string& name : r.names(prefix)) {
      if (name == "euler_churn") continue;  // asks the network before it adds the noise
      SCOPED_TRACE(name);
      const auto model = reference_denoiser(r, r.item(name).string("model"));
      CountingModel counting(*model);
      EdmOptions options;
      options.second_order = std::string(prefix) == "heun_";
      // euler_log_linear lists one level more than it takes steps.
      const at::Tensor sigmas = r.at(name + "/sigmas");
      const int64_t nfe = r.item(name).integer("nfe");
      const Schedule schedule = sigma_knots(
          options.second_order ? without_pairs(sigmas) : sigmas.slice(0, 0, nfe + 1));
      const at::Tensor start =
          r.at(name + "/noise_init") * r.item(name).number("init_noise_sigma");
      const at::Tensor out = solve_edm(counting, start / schedule.times[0], {}, schedule,
                                       options, no_noise());
      EXPECT_LT(difference(out, r.at(name + "/final")), 1e-11);
      expect_calls(counting, r, name);
      ++compared;
    }
  EXPECT_EQ(compared, 17);
}

// Ancestral Euler is DDIM with eta in any scale of the state.
TEST(FirstOrderReference, AncestralIsDdimWithEta) {
  FM_NEED_METHOD_REFERENCE("samplers_diffusers");
  FM_NEED_METHOD_REFERENCE("samplers_other");
  const MethodReference diffusers("samplers_diffusers"), other("samplers_other");
  const auto check = [](const MethodReference& r, const std::string& name,
                        const std::string& model_name, double eta, double start) {
    SCOPED_TRACE(name);
    const auto model = reference_denoiser(r, model_name);
    CountingModel counting(*model);
    const Schedule schedule = sigma_knots(r.at(name + "/sigmas"));
    const at::Tensor out =
        solve_ddim(counting, r.at(name + "/noise_init") * (start / schedule.times[0]), {},
                   schedule, {.eta = eta}, recorded_noise(r.at(name + "/noise")));
    EXPECT_LT(difference(out, r.at(name + "/final")), 1e-11);
    expect_calls(counting, r, name);
  };
  for (const char* name : {"ancestral", "ancestral_trailing"})
    check(diffusers, name, diffusers.item(name).string("model"), 1,
          diffusers.item(name).number("init_noise_sigma"));
  for (const char* name : {"k_euler_ancestral_eta1.0", "k_euler_ancestral_eta0.5"})
    check(other, name, other.config(name).string("model"), other.config(name).number("eta"),
          other.at(std::string(name) + "/sigmas")[0].item<double>());
}

TEST(FirstOrderReference, KDiffusionEulerAndHeun) {
  FM_NEED_METHOD_REFERENCE("samplers_other");
  const MethodReference r("samplers_other");
  int compared = 0;
  for (const char* prefix : {"k_euler_", "k_heun_"})
    for (const std::string& name : r.names(prefix)) {
      if (name.starts_with("k_euler_ancestral")) continue;
      SCOPED_TRACE(name);
      const Config config = r.config(name);
      const auto model = reference_denoiser(r, config.string("model"));
      CountingModel counting(*model);
      EdmOptions options;
      options.second_order = std::string(prefix) == "k_heun_";
      options.s_churn = config.number("s_churn", 0);
      options.s_min = config.number("s_tmin", 0);
      options.s_max = config.number("s_tmax", options.s_max);
      options.s_noise = config.number("s_noise", 1);
      const at::Tensor out =
          solve_edm(counting, r.at(name + "/noise_init"), {},
                    sigma_knots(r.at(name + "/sigmas")), options,
                    options.s_churn > 0 ? recorded_noise(r.at(name + "/noise"))
                                        : no_noise());
      EXPECT_LT(difference(out, r.at(name + "/final")), 1e-11);
      EXPECT_LT(difference(at::stack(counting.inputs), r.at(name + "/net_x")), 1e-11);
      EXPECT_LT(difference(at::tensor(counting.times, at::kDouble),
                           r.at(name + "/net_sigma")), 1e-11);
      expect_calls(counting, r, name);
      ++compared;
    }
  EXPECT_EQ(compared, 7);
}

// Knots that end above 0, or with one more step to it; the first slope without the network.
TEST(FirstOrderReference, DiffSamplerEulerAndHeun) {
  FM_NEED_METHOD_REFERENCE("samplers_other");
  const MethodReference r("samplers_other");
  int compared = 0;
  for (const char* prefix : {"d_euler_", "d_heun_"})
    for (const std::string& name : r.names(prefix)) {
      SCOPED_TRACE(name);
      const Config config = r.config(name);
      const auto model = reference_denoiser(r, config.string("model"));
      CountingModel counting(*model);
      EdmOptions options;
      options.second_order = std::string(prefix) == "d_heun_";
      options.afs = config.boolean("afs", false);
      Schedule schedule = sigma_knots(r.at(name + "/t_steps"));
      if (config.boolean("denoise_to_zero", false)) schedule.times.push_back(0);
      const at::Tensor latents = r.at(name + "/latents");
      const at::Tensor own_shape = model->info().sample_shape.size() == 1
                                       ? latents.flatten(1)
                                       : latents;
      const at::Tensor out =
          solve_edm(counting, own_shape, {}, schedule, options, no_noise());
      EXPECT_LT(difference(out, r.at(name + "/final").view(out.sizes())), 1e-11);
      expect_calls(counting, r, name);
      ++compared;
    }
  EXPECT_EQ(compared, 8);
}

TEST(FirstOrderReference, DiffusersFlow) {
  FM_NEED_METHOD_REFERENCE("samplers_diffusers");
  const MethodReference r("samplers_diffusers");
  int compared = 0;
  for (const char* prefix : {"flow_euler_", "flow_heun_", "flow_lcm"})
    for (const std::string& name : r.names(prefix)) {
      SCOPED_TRACE(name);
      VelocityOf model(reference_denoiser(r, r.item(name).string("model")));
      CountingModel counting(model);
      const bool heun = std::string(prefix) == "flow_heun_";
      const at::Tensor sigmas = r.at(name + "/sigmas");
      const Schedule schedule = flow_knots(heun ? without_pairs(sigmas) : sigmas);
      const at::Tensor latents = r.at(name + "/noise_init") / (1 - schedule.times[0]);
      at::Tensor out;
      if (name == "flow_lcm" || name == "flow_euler_stochastic") {
        out = solve_jumps(counting, latents, {}, schedule, {.churn = {1}},
                          recorded_noise(r.at(name + "/noise")));
      } else {
        EdmOptions options;
        options.second_order = heun;
        options.lower_order_final = true;
        out = solve_edm(counting, latents, {}, schedule, options, no_noise());
      }
      EXPECT_LT(difference(out, r.at(name + "/final")), 1e-11);
      expect_calls(counting, r, name);
      ++compared;
    }
  EXPECT_EQ(compared, 12);
}

// X_{s,t} of x = (1-t) n + t x1 with x1 ~ N(m, Q diag(s^2) Q'): each axis by itself.
class GaussianMap : public AnalyticModel {
 public:
  explicit GaussianMap(const MethodReference& r)
      : AnalyticModel({.kind = ModelKind::flow_map, .sample_shape = {3, 2, 2}}),
        m_(r.at("model/gauss12/m")),
        q_(r.at("model/gauss12/Q")),
        s_(r.at("model/gauss12/s")) {}
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition&,
                        Context&) override {
    const double from = s.value[0].item<double>(), to = t.value[0].item<double>();
    const auto deviation = [&](double time) {
      return ((1 - time) * (1 - time) + (time * s_).square()).sqrt();
    };
    const at::Tensor offset = x.value.flatten(1) - from * m_;
    const at::Tensor moved =
        to * m_ + offset.matmul(q_).mul(deviation(to) / deviation(from)).matmul(q_.t());
    return (moved.view(x.value.sizes()) - x.value) / (to - from);
  }

 private:
  at::Tensor m_, q_, s_;
};

TEST(FirstOrderReference, DiffusersFlowMaps) {
  FM_NEED_METHOD_REFERENCE("samplers_diffusers");
  const MethodReference r("samplers_diffusers");
  GaussianMap model(r);
  int compared = 0;
  for (const std::string& name : r.names("flow_map_")) {
    SCOPED_TRACE(name);
    CountingModel counting(model);
    const at::Tensor out =
        solve_jumps(counting, r.at(name + "/noise_init"), {},
                    flow_knots(r.at(name + "/sigmas")), {}, no_noise());
    EXPECT_LT(difference(out, r.at(name + "/final")), 1e-11);
    expect_calls(counting, r, name);
    ++compared;
  }
  EXPECT_EQ(compared, 6);
}

// D' = c_skip x + c_out D, with scalings as a function of sigma; as its model sees x.
class BoundaryScaled : public AnalyticModel {
 public:
  using Scalings = std::function<std::pair<double, double>(double sigma)>;
  BoundaryScaled(std::shared_ptr<AnalyticModel> inner, Scalings scalings, bool clip = false)
      : AnalyticModel(inner->info()),
        inner_(std::move(inner)),
        scalings_(std::move(scalings)),
        clip_(clip) {}
  Dual denoise(const Dual& x, const Dual& sigma, const Condition& c,
               Context& ctx) override {
    const auto [skip, out] = scalings_(sigma.value[0].item<double>());
    const at::Tensor value =
        skip * x.value + out * inner_->denoise(x, sigma, c, ctx).value;
    return clip_ ? value.clamp(-1, 1) : value;
  }

 private:
  std::shared_ptr<AnalyticModel> inner_;
  Scalings scalings_;
  bool clip_;
};

// Song et al. 2023, appendix C, with their epsilon and sigma_data.
std::pair<double, double> consistency_scalings(double sigma) {
  const double epsilon = 0.002, data = 0.5, above = sigma - epsilon;
  return {data * data / (above * above + data * data),
          above * data / std::sqrt(sigma * sigma + data * data)};
}

TEST(FirstOrderReference, ConsistencyModels) {
  FM_NEED_METHOD_REFERENCE("samplers_diffusers");
  FM_NEED_METHOD_REFERENCE("samplers_other");
  const MethodReference diffusers("samplers_diffusers"), other("samplers_other");
  int compared = 0;
  for (const MethodReference* r : {&diffusers, &other})
    for (const std::string& name : r->names("cm_")) {
      SCOPED_TRACE(name);
      const bool peer = r == &other;
      BoundaryScaled model(
          reference_denoiser(*r, peer ? r->config(name).string("model")
                                      : r->item(name).string("model")),
          consistency_scalings, !peer && r->config(name).boolean("clip_denoised"));
      CountingModel counting(model);
      // The last level is that of the data.
      Schedule schedule;
      if (peer) {
        schedule = sigma_knots(r->at(name + "/net_sigma"));
        schedule.times.push_back(0);
      } else {
        schedule = sigma_knots(r->at(name + "/sigmas"));
        schedule.times.back() = 0;
      }
      const bool noisy = schedule.times.size() > 2;
      const at::Tensor out = solve_jumps(
          counting, r->at(name + "/noise_init"), {}, schedule,
          {.churn = {1}, .epsilon = 0.002},
          noisy ? recorded_noise(r->at(name + "/noise")) : no_noise());
      // The peer's last level is 0.002 (1 + 1e-16), whose noise it adds.
      EXPECT_LT(difference(out, r->at(name + "/final")), peer ? 1e-9 : 1e-11);
      expect_calls(counting, *r, name);
      ++compared;
    }
  EXPECT_EQ(compared, 8);
}

// Levels of the variance-preserving scaling, x = sqrt(a) x1 + sqrt(1-a) n.
at::Tensor levels_of(const at::Tensor& alphas_cumprod) {
  return ((1 - alphas_cumprod) / alphas_cumprod).sqrt();
}

TEST(FirstOrderReference, LatentConsistencyModels) {
  FM_NEED_METHOD_REFERENCE("samplers_diffusers");
  const MethodReference r("samplers_diffusers");
  int compared = 0;
  for (const std::string& name : r.names("lcm_")) {
    SCOPED_TRACE(name);
    const at::Tensor alphas = r.at(name + "/alphas_cumprod");
    const at::Tensor steps = r.at(name + "/timesteps"), levels = levels_of(alphas);
    const double stretch = r.config(name).number("timestep_scaling", 10);
    // Scalings in the timestep, on the variance-preserving state.
    BoundaryScaled model(
        reference_denoiser(r, r.item(name).string("model")), [&](double sigma) {
          const auto row = (levels - sigma).abs().argmin().item<int64_t>();
          const double t = stretch * steps[row].item<double>(), data = 0.5;
          return std::pair{data * data / (t * t + data * data) / std::hypot(1, sigma),
                           t / std::sqrt(t * t + data * data)};
        });
    CountingModel counting(model);
    Schedule schedule = sigma_knots(levels);
    schedule.times.push_back(0);
    const at::Tensor start = r.at(name + "/noise_init") / alphas[0].sqrt();
    const at::Tensor out =
        solve_jumps(counting, start / schedule.times[0], {}, schedule, {.churn = {1}},
                    schedule.times.size() > 2 ? recorded_noise(r.at(name + "/noise"))
                                              : no_noise());
    EXPECT_LT(difference(out, r.at(name + "/final")), 1e-11);
    expect_calls(counting, r, name);
    ++compared;
  }
  EXPECT_EQ(compared, 4);
}

// Trajectory consistency distillation walks to the level of timestep (1 - eta) t, which is
// a gamma for each step.
TEST(FirstOrderReference, TrajectoryConsistency) {
  FM_NEED_METHOD_REFERENCE("samplers_diffusers");
  const MethodReference r("samplers_diffusers");
  int compared = 0;
  for (const std::string& name : r.names("tcd_")) {
    SCOPED_TRACE(name);
    const Config config = r.config(name);
    const at::Tensor betas = at::linspace(std::sqrt(config.number("beta_start")),
                                          std::sqrt(config.number("beta_end")), 1000,
                                          at::kDouble).square();
    const at::Tensor all = levels_of((1 - betas).cumprod(0));
    const at::Tensor steps = r.at(name + "/timesteps");
    const double eta = r.item(name).child("step").number("eta");
    Schedule schedule = sigma_knots(all.index({steps}));
    schedule.times.push_back(all[0].item<double>());  // not 0: it ends at timestep 0
    JumpOptions options;
    options.churn.clear();
    for (int64_t i = 1; i <= steps.numel(); ++i) {
      const int64_t next = i < steps.numel() ? steps[i].item<int64_t>() : 0;
      const auto lower = static_cast<int64_t>(std::floor((1 - eta) * double(next)));
      const double ratio = (all[lower] / all[next]).item<double>();
      options.churn.push_back(std::sqrt(1 - ratio * ratio));
    }
    const auto model = reference_denoiser(r, r.item(name).string("model"));
    CountingModel counting(*model);
    const double first = schedule.times[0], last = schedule.times.back();
    const at::Tensor start = r.at(name + "/noise_init") * std::hypot(1, first);
    const at::Tensor out =
        solve_jumps(counting, start / first, {}, schedule, options,
                    eta > 0 && steps.numel() > 1 ? recorded_noise(r.at(name + "/noise"))
                                                 : no_noise());
    EXPECT_LT(difference(out / std::hypot(1, last), r.at(name + "/final")), 1e-11);
    expect_calls(counting, r, name);
    ++compared;
  }
  EXPECT_EQ(compared, 3);
}

// A velocity times a number.
class ScaledVelocity : public AnalyticModel {
 public:
  ScaledVelocity(std::shared_ptr<AnalyticModel> inner, double factor)
      : AnalyticModel(inner->info()), inner_(std::move(inner)), factor_(factor) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    return inner_->velocity(x, t, c, ctx).value * factor_;
  }

 private:
  std::shared_ptr<AnalyticModel> inner_;
  double factor_;
};

// SlimFlow starts its network at eps with all of the noise; its Euler steps are 1/N of a
// range of 1 - eps. Its Heun ends with Euler's step, after an evaluation that it drops.
TEST(FirstOrderReference, SlimFlow) {
  FM_NEED_METHOD_REFERENCE("samplers_other");
  const MethodReference r("samplers_other");
  int compared = 0;
  for (const std::string& name : r.names("slim_")) {
    if (name.starts_with("slim_rk45")) continue;
    SCOPED_TRACE(name);
    const Config config = r.config(name);
    const std::string sampler = config.string("sampler");
    const double eps = config.number("eps");
    const int64_t n = config.integer("sample_N");
    const auto inner =
        std::make_shared<VelocityOf>(reference_denoiser(r, config.string("model")));
    ScaledVelocity model(inner, sampler == "euler" ? 1 / (1 - eps) : 1);
    CountingModel counting(model);
    Schedule schedule;
    schedule.source = "reference";
    for (int64_t i = 0; i <= n; ++i)
      schedule.times.push_back(eps + (1 - eps) * double(i) / double(n));
    schedule.times.back() = 1;
    const at::Tensor latents = r.at(name + "/noise_init") / (1 - eps);
    EdmOptions options;
    options.second_order = sampler == "heun";
    options.lower_order_final = true;
    const at::Tensor out =
        sampler == "cm_stochastic"
            ? solve_jumps(counting, latents, {}, schedule, {.churn = {1}},
                          recorded_noise(r.at(name + "/noise")))
            : solve_edm(counting, latents, {}, schedule, options, no_noise());
    EXPECT_LT(difference(out, r.at(name + "/final")), 1e-11);
    EXPECT_LT(difference(at::stack(counting.inputs),
                         r.at(name + "/net_x").slice(0, 0, counting.evaluations())), 1e-11);
    expect_calls(counting, r, name);
    ++compared;
  }
  EXPECT_EQ(compared, 8);
}

// The network of a group as a map with unit base noise.
class UnitNoiseMap : public AnalyticModel {
 public:
  UnitNoiseMap(const MethodReference& r, double rescale, double base_std)
      : AnalyticModel({.kind = ModelKind::flow_map, .sample_shape = {2},
                       .base_std = base_std}),
        inner_(std::make_shared<flowmap::testing::ReferenceNet>(
                   4, false,
                   [&](const std::string& part) { return r.at("net/A/" + part); }),
               rescale) {}
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition& c,
                        Context& ctx) override {
    return inner_.average_velocity(x, s, t, c, ctx);
  }

 private:
  flowmap::testing::ReferenceMap inner_;
};

TEST(FirstOrderReference, FlowMapsAndMeanFlow) {
  FM_NEED_METHOD_REFERENCE("flow_maps");
  FM_NEED_METHOD_REFERENCE("flow_maps_peers");
  const MethodReference own("flow_maps"), peers("flow_maps_peers");
  int compared = 0;
  UnitNoiseMap map(own, 0.5, 1);
  for (const std::string& name : own.names("sample_")) {
    SCOPED_TRACE(name);
    CountingModel counting(map);
    const at::Tensor out = solve_jumps(
        counting, own.at(name + "/states")[0], {},
        make_schedule(map.info(), {.steps = own.config(name).integer("N")}), {}, no_noise());
    EXPECT_LT(difference(out, own.at(name + "/final")), 1e-11);
    expect_calls(counting, own, name);
    ++compared;
  }
  UnitNoiseMap mean(peers, 0.5, 1);
  for (const char* prefix : {"fastgen_sample_", "zhuyu_sample_"})
    for (const std::string& name : peers.names(prefix)) {
      SCOPED_TRACE(name);
      CountingModel counting(mean);
      const Config config = peers.config(name);
      const bool noisy = config.string("type", "ode") == "sde";
      const Schedule schedule =
          config.has("t_list")
              ? flow_knots(at::tensor(config.numbers("t_list"), at::kDouble))
              : make_schedule(mean.info(), {.steps = config.integer("num_steps")});
      JumpOptions options;
      options.churn = {noisy ? 1. : 0.};
      const at::Tensor out =
          solve_jumps(counting, peers.at(name + "/start"), {}, schedule, options,
                      noisy ? recorded_in_order(peers.at(name + "/noise")) : no_noise());
      EXPECT_LT(difference(out, peers.at(name + "/final")), 1e-11);
      if (config.has("t_list")) {
        EXPECT_LT(difference(at::stack(counting.inputs), peers.at(name + "/net_x")), 1e-11);
      }
      expect_calls(counting, peers, name);
      ++compared;
    }
  EXPECT_EQ(compared, 8);
}

}  // namespace
}  // namespace flowmap::samplers
