// DDIM, DPM-Solver++, UniPC, DEIS and iPNDM against other programs' numbers, and their orders.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>
#include <string>

#include "flowmap/base/error.h"
#include "samplers/ddim.h"
#include "samplers/deis.h"
#include "samplers/dpmpp.h"
#include "samplers/unipc.h"
#include "tests/samplers/multistep_reference.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::CountingModel;
using flowmap::testing::difference;
using flowmap::testing::GaussianFlow;
using flowmap::testing::MethodReference;
using flowmap::testing::MixtureModel;

at::Tensor normals(int64_t rows, int64_t d) {
  return Draw(5, 0, rows).normal("latents", {d}).to(at::kDouble);
}

// Ours on a peer's knots, with its noise.
at::Tensor solve(const PeerRun& run, Model& model, const Schedule& schedule) {
  const NoiseSource noise = [&](std::size_t step) {
    return run.noise[static_cast<int64_t>(step)];
  };
  at::Tensor out;
  if (run.solver == "ddim")
    out = solve_ddim(model, run.latents, {}, schedule, read_ddim_options(run.options), noise);
  else if (run.solver == "dpmpp")
    out = solve_dpmpp(model, run.latents, {}, schedule, read_dpmpp_options(run.options),
                      noise);
  else if (run.solver == "deis")
    out = solve_deis(model, run.latents, {}, schedule, read_deis_options(run.options));
  else if (run.solver == "ipndm")
    out = solve_deis(model, run.latents, {}, schedule, read_ipndm_options(run.options));
  else
    out = solve_unipc(model, run.latents, {}, schedule, read_unipc_options(run.options));
  run.options.check_all_read();
  return out;
}

// A denoiser whose answer a peer clips: to [-1, 1] (DDIM's clip_sample), or to the quantile
// 0.995 of each image, then divided by it (dynamic thresholding).
class ClippedModel : public flowmap::testing::AnalyticModel {
 public:
  ClippedModel(Model& inner, bool dynamic)
      : AnalyticModel(inner.info()), inner_(inner), dynamic_(dynamic) {}
  Dual denoise(const Dual& x, const Dual& sigma, const Condition& c, Context& ctx) override {
    const at::Tensor d = inner_.denoise(x, sigma, c, ctx).value;
    if (!dynamic_) return d.clamp(-1, 1);
    const at::Tensor limit = at::quantile(d.abs().flatten(1), 0.995, 1)
                                 .clamp_min(1)
                                 .reshape({-1, 1, 1, 1});
    return at::minimum(at::maximum(d, -limit), limit) / limit;
  }

 private:
  Model& inner_;
  bool dynamic_;
};

void expect_agreement(const PeerRun& run, Model& model, int64_t evaluations) {
  CountingModel counting(model);
  const at::Tensor out = solve(run, counting, run.schedule);
  EXPECT_LT(difference(out, run.final_state), 1e-11);
  if (run.inputs.defined()) {
    EXPECT_LT(difference(at::stack(counting.inputs), run.inputs), 1e-11);
  }
  EXPECT_EQ(counting.evaluations(), evaluations);
  EXPECT_EQ(make_sampler(run.solver, run.options)->evaluations(model.info(), run.schedule),
            evaluations);
}

// The same run of the velocity model over our clock: x_t = t x_sigma, t = 1/(1 + sigma).
void expect_agreement_in_time(const PeerRun& run, Model& velocity) {
  Schedule schedule = run.schedule;
  schedule.sigma = false;
  for (double& knot : schedule.times) knot = std::isinf(knot) ? 0 : 1 / (1 + knot);
  const at::Tensor out = solve(run, velocity, schedule);
  EXPECT_LT(difference(out, run.final_state * schedule.times.back()), 1e-11);
}

TEST(MultistepReference, Diffusers) {
  FM_NEED_METHOD_REFERENCE("samplers_diffusers");
  const MethodReference reference("samplers_diffusers");
  int compared = 0;
  for (const char* prefix :
       {"dpmpp", "dpm2m_eps", "sde_dpmpp", "unipc", "edm_dpmpp", "edm_sde",
        "deis"})
    for (const std::string& name : reference.names(prefix)) {
      SCOPED_TRACE(name);
      const PeerRun run = diffusers_run(reference, name);
      const std::string model = reference.item(name).string("model");
      expect_agreement(run, *peer_model(reference, model),
                       reference.item(name).integer("nfe"));
      // DEIS interpolates in the clock that it is given.
      if (model == "mix2" && run.solver != "deis")
        expect_agreement_in_time(run, *peer_model(reference, model, ModelKind::velocity));
      ++compared;
    }
  EXPECT_EQ(compared, 34);
}

// Not run: ddim_linspace, which steps to levels other than those it is called at next.
TEST(MultistepReference, DiffusersDdim) {
  FM_NEED_METHOD_REFERENCE("samplers_diffusers");
  const MethodReference reference("samplers_diffusers");
  int compared = 0;
  for (const std::string& name : reference.names("ddim_")) {
    if (name == "ddim_linspace") continue;
    SCOPED_TRACE(name);
    const PeerRun run = ddim_run(reference, name);
    const std::string model_name = reference.item(name).string("model");
    const auto model = peer_model(reference, model_name);
    ClippedModel clipped(*model, false);
    const bool clips = name == "ddim_clip_corrected";
    // From pure noise there is no sigma, only our clock's t = 0.
    if (!std::isinf(run.schedule.times[0]))
      expect_agreement(run, clips ? clipped : *model,
                       reference.item(name).integer("nfe"));
    if (model_name == "mix2" && !clips)
      expect_agreement_in_time(run,
                               *peer_model(reference, model_name, ModelKind::velocity));
    ++compared;
  }
  EXPECT_EQ(compared, 10);
}

TEST(MultistepReference, KDiffusionAndDiffSampler) {
  FM_NEED_METHOD_REFERENCE("samplers_other");
  const MethodReference reference("samplers_other");
  int compared = 0;
  for (const char* prefix : {"k_dpmpp_2m", "k_dpmpp_3m", "d_dpmpp", "d_unipc", "d_ipndm2",
                             "d_ipndm3", "d_ipndm4", "d_ipndm_v2", "d_deis_rhoab"})
    for (const std::string& name : reference.names(prefix)) {
      SCOPED_TRACE(name);
      const PeerRun run = other_run(reference, name);
      const auto model = peer_model(reference, reference.config(name).string("model"));
      // diff-sampler thresholds wherever it predicts data.
      ClippedModel thresholded(*model, true);
      const bool thresholds = name.find("thresholded") != std::string::npos;
      expect_agreement(run, thresholds ? thresholded : *model,
                       reference.item(name).integer("nfe"));
      ++compared;
    }
  EXPECT_EQ(compared, 22);
}

// log2 of the factor by which the error falls when the steps are doubled, from sigma 3 to
// 0.05 on one Gaussian: x(sigma) = m + sqrt((c^2 + sigma^2) / (c^2 + sigma_0^2)) (x - m).
// Steps in lambda grow from about 1/n^2, so that the first ones, which are of low order for
// want of a history, do not set the error.
double observed_order(const std::string& solver, const std::string& options, int64_t n) {
  const double c = 0.4, mean = 0.7, high = 3, low = 0.05;
  MixtureModel model(ModelKind::denoiser, {1}, at::ones({1}, at::kDouble),
                     at::full({1, 1}, mean, at::kDouble), at::full({1}, c, at::kDouble));
  const at::Tensor latents = normals(16, 1);
  const at::Tensor exact =
      mean + std::hypot(c, low) / std::hypot(c, high) * (latents * high - mean);
  const auto error = [&](int64_t steps) {
    Schedule schedule{.times = {}, .sigma = true, .source = "test"};
    for (int64_t i = 0; i <= steps; ++i) {
      const double u = static_cast<double>(i) / static_cast<double>(steps);
      schedule.times.push_back(high * std::pow(low / high, u * u));
    }
    const at::Tensor out =
        make_sampler(solver, Config::from_text(options, "test"))
            ->sample(model, latents, {}, schedule, Draw(0, 0, 16));
    return (out - exact).abs().max().item<double>();
  };
  return std::log2(error(n) / error(2 * n));
}

struct OrderCase {
  const char* solver;
  const char* options;
  double order;
};

class MultistepOrder : public ::testing::TestWithParam<OrderCase> {};

TEST_P(MultistepOrder, AsDeclared) {
  const OrderCase& c = GetParam();
  // Higher orders reach the rounding of float64 sooner.
  EXPECT_NEAR(observed_order(c.solver, c.options, c.order > 2 ? 128 : 512), c.order, 0.15)
      << c.solver << " " << c.options;
}

INSTANTIATE_TEST_SUITE_P(
    Solvers, MultistepOrder,
    ::testing::Values(
        OrderCase{"ddim", "{}", 1},
        OrderCase{"dpmpp", R"({"order": 1})", 1},
        OrderCase{"dpmpp", R"({"order": 2})", 2},
        OrderCase{"dpmpp", R"({"order": 2, "solver_type": "heun"})", 2},
        OrderCase{"dpmpp", R"({"order": 2, "prediction": "noise"})", 2},
        // As published: half of the second difference leaves an error of second order.
        OrderCase{"dpmpp", R"({"order": 3})", 2},
        OrderCase{"dpmpp", R"({"order": 3, "second_difference": "full"})", 3},
        OrderCase{"deis", R"({"order": 1})", 1}, OrderCase{"deis", R"({"order": 2})", 2},
        OrderCase{"deis", R"({"order": 3})", 3}, OrderCase{"deis", R"({"order": 4})", 4},
        OrderCase{"deis", R"({"order": 3, "polynomial": "log_rho"})", 3},
        OrderCase{"unipc", R"({"order": 1, "corrector": false})", 1},
        OrderCase{"unipc", R"({"order": 2, "corrector": false, "lower_order_final": false})",
                  2},
        OrderCase{"unipc", R"({"order": 3, "corrector": false, "lower_order_final": false})",
                  3},
        OrderCase{"unipc", R"({"order": 1, "lower_order_final": false})", 2},
        OrderCase{"unipc", R"({"order": 2, "lower_order_final": false})", 3},
        OrderCase{"unipc", R"({"order": 2, "solver_type": "bh1",
                              "lower_order_final": false})", 3},
        OrderCase{"unipc", R"({"order": 3, "lower_order_final": false})", 4}));

double largest_gap(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

at::Tensor run(const std::string& solver, const std::string& options, Model& model,
               const at::Tensor& latents, const Schedule& schedule) {
  return make_sampler(solver, Config::from_text(options, "test"))
      ->sample(model, latents, {}, schedule, Draw(0, 0, latents.size(0)));
}

// On straight paths DDIM is Euler's method, from pure noise to data.
TEST(Multistep, DdimIsEulerInTime) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  const at::Tensor latents = normals(8, 2);
  for (const int64_t steps : {1, 2, 7}) {
    const Schedule schedule = make_schedule(flow.info(), {.steps = steps});
    const at::Tensor euler = run("euler", "{}", flow, latents, schedule);
    EXPECT_LT(largest_gap(run("ddim", "{}", flow, latents, schedule), euler), 1e-13);
    EXPECT_LT(largest_gap(run("dpmpp", R"({"order": 1})", flow, latents, schedule), euler),
              1e-13);
    EXPECT_LT(largest_gap(run("dpmpp", R"({"order": 1, "prediction": "noise"})", flow,
                              latents, schedule), euler), 1e-13);
  }
}

// lambda runs from -inf to inf here. All settings stay finite; the steps beside the ends,
// which are never small in lambda, leave second order whatever is asked for.
TEST(Multistep, FromPureNoiseToDataInTime) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  const at::Tensor latents = normals(8, 2);
  const at::Tensor exact = -1.1 + 1.7 * latents;
  const auto error = [&](const char* solver, const std::string& options, int64_t steps) {
    return largest_gap(run(solver, options, flow, latents,
                           make_schedule(flow.info(), {.steps = steps})),
                       exact);
  };
  // The mean of two doublings, past those where an error changes its sign.
  const auto order = [&](const char* solver, const std::string& options) {
    return std::log2(error(solver, options, 256) / error(solver, options, 1024)) / 2;
  };
  for (const char* solver : {"dpmpp", "unipc"})
    for (const char* options :
         {R"({"order": 2})", R"({"order": 3})", R"({"order": 2, "prediction": "noise"})",
          R"({"order": 3, "prediction": "noise", "lower_order_final": false})"}) {
      EXPECT_TRUE(std::isfinite(error(solver, options, 1))) << solver << options;
      EXPECT_GT(order(solver, options), 1.7) << solver << options;
    }
  EXPECT_GT(order("unipc", R"({"solver_type": "bh1"})"), 1.7);
}

// The trigonometric interpolant over the same noise levels is the same run.
TEST(Multistep, TrigonometricClock) {
  class TrigonometricMixture : public MixtureModel {
   public:
    using MixtureModel::MixtureModel;
    ModelInfo info() const override {
      ModelInfo about = MixtureModel::info();
      about.interpolant = Interpolant::trigonometric;
      return about;
    }
    Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
      const at::Tensor angle = t.value * (std::numbers::pi / 2), sine = angle.sin();
      const at::Tensor data = denoise(x.value / sine.unsqueeze(1),
                                      info_.base_std / angle.tan(), c, ctx).value;
      const at::Tensor cosine = angle.cos().unsqueeze(1);
      const at::Tensor noise = (x.value - sine.unsqueeze(1) * data) / cosine;
      return (cosine * data - sine.unsqueeze(1) * noise) * (std::numbers::pi / 2);
    }
  };
  const auto weights = at::tensor({.3, .7}, at::kDouble);
  const auto means = at::tensor({-1.0, 0.2, 0.5, 1.0}, at::kDouble).reshape({2, 2});
  const auto spread = at::tensor({.3, .5}, at::kDouble);
  const double b = 0.5;
  MixtureModel denoiser(ModelKind::denoiser, {2}, weights, means, spread, b);
  TrigonometricMixture turning(ModelKind::velocity, {2}, weights, means, spread, b);
  Schedule times{.times = {0.03, 0.2, 0.45, 0.7, 0.9, 1}, .sigma = false, .source = "test"};
  Schedule sigmas{.times = {}, .sigma = true, .source = "test"};
  for (const double t : times.times)
    sigmas.times.push_back(t == 1 ? 0 : b / std::tan(std::numbers::pi / 2 * t));
  const at::Tensor latents = normals(6, 2);
  for (const char* solver : {"ddim", "dpmpp", "unipc"})
    EXPECT_LT(largest_gap(run(solver, "{}", turning, latents, times),
                          run(solver, "{}", denoiser, latents, sigmas)), 1e-12)
        << solver;
}

TEST(Multistep, NoiseBelongsToTheSeed) {
  GaussianFlow flow({3}, 0, 0.5, -1.1, 1.7);
  const Schedule schedule = make_schedule(flow.info(), {.steps = 4});
  const Draw draw = Draw::per_seed({3, 1, 4, 1, 5});
  const at::Tensor latents = draw.normal("latents", {3}).to(at::kDouble);
  for (const auto& [solver, options] :
       {std::pair{"ddim", R"({"eta": 1})"}, std::pair{"dpmpp", R"({"sde": true})"}}) {
    const auto sampler = make_sampler(solver, Config::from_text(options, "test"));
    const at::Tensor all = sampler->sample(flow, latents, {}, schedule, draw);
    EXPECT_TRUE(all[1].equal(all[3]));
    EXPECT_FALSE(all[1].equal(all[2]));
    const at::Tensor part =
        sampler->sample(flow, latents.slice(0, 2, 4), {}, schedule, draw.slice(2, 4));
    EXPECT_TRUE(part.equal(all.slice(0, 2, 4)));
    EXPECT_GT(largest_gap(all, run(solver, "{}", flow, latents, schedule)), 0.01);
  }
}

// What the last step of a run that ends above sigma 0 makes of the state before it.
TEST(Multistep, LowerOrderInTheLastStep) {
  MixtureModel model(ModelKind::denoiser, {1}, at::tensor({.3, .7}, at::kDouble),
                     at::tensor({-1.0, 0.7}, at::kDouble).unsqueeze(1),
                     at::tensor({.3, .4}, at::kDouble));
  const at::Tensor latents = normals(6, 1);
  const auto last_step_is_ddim = [&](int steps, const char* options) {
    Schedule schedule{.times = {}, .sigma = true, .source = "test"};
    for (int i = 0; i <= steps; ++i)
      schedule.times.push_back(3 * std::pow(0.02, static_cast<double>(i) / steps));
    CountingModel counting(model);
    const at::Tensor out = run("dpmpp", options, counting, latents, schedule);
    const at::Tensor x = counting.inputs.back();
    Context ctx;
    const double from = schedule.times[schedule.times.size() - 2];
    const double ratio = schedule.times.back() / from;
    const at::Tensor data =
        model.denoise(x, at::full({6}, from, at::kDouble), {}, ctx).value;
    return largest_gap(out, ratio * x + (1 - ratio) * data) < 1e-14;
  };
  EXPECT_TRUE(last_step_is_ddim(14, "{}"));
  EXPECT_FALSE(last_step_is_ddim(14, R"({"lower_order_final": false})"));
  EXPECT_FALSE(last_step_is_ddim(15, "{}"));
  EXPECT_TRUE(last_step_is_ddim(15, R"({"euler_at_final": true})"));
}

TEST(Multistep, EveryStepDrawsItsOwnNoise) {
  const NoiseSource noise = noise_of(Draw(1, 0, 2), at::zeros({2, 3, 4, 4}));
  EXPECT_EQ(noise(0).sizes(), (at::IntArrayRef{2, 3, 4, 4}));
  EXPECT_EQ(noise(0).scalar_type(), at::kDouble);
  EXPECT_TRUE(noise(1).equal(noise(1)));
  EXPECT_GT(largest_gap(noise(0), noise(1)), 1);
}

TEST(Multistep, FinalSigmaLeavesOutTheLastKnot) {
  GaussianFlow flow({2}, 0, 1, 0.2, 0.3);
  const at::Tensor latents = normals(3, 2);
  const Schedule schedule = make_schedule(flow.info(), {.steps = 4});
  Schedule shorter = schedule;
  shorter.times.pop_back();
  const char* options = R"({"final_sigma": "sigma_min"})";
  for (const char* solver : {"ddim", "dpmpp", "unipc", "deis", "ipndm"}) {
    CountingModel counting(flow);
    EXPECT_TRUE(run(solver, options, counting, latents, schedule)
                    .equal(run(solver, "{}", flow, latents, shorter)));
    EXPECT_EQ(counting.evaluations(), 3);
    EXPECT_EQ(make_sampler(solver, Config::from_text(options, "test"))
                  ->evaluations(flow.info(), schedule), 3);
    EXPECT_THROW(run(solver, options, flow, latents,
                     make_schedule(flow.info(), {.steps = 1})), UsageError);
  }
}

TEST(Deis, WeightsIntegratePolynomials) {
  const std::vector<double> nodes{2.0, 2.7, 4.1, 7.0};
  const double next = 1.2;
  for (std::size_t n = 1; n <= nodes.size(); ++n) {
    const std::vector<double> used(nodes.begin(), nodes.begin() + static_cast<long>(n));
    const auto plain = deis_weights(used, next, SlopePolynomial::rho);
    const auto logarithmic = deis_weights(used, next, SlopePolynomial::log_rho);
    // int u^p du, and int log(u)^p du by parts, for every power that n nodes hold.
    double by_parts = next - nodes[0];
    for (std::size_t p = 0; p < n; ++p) {
      const double power = static_cast<double>(p);
      if (p > 0)
        by_parts = next * std::pow(std::log(next), power) -
                   nodes[0] * std::pow(std::log(nodes[0]), power) - power * by_parts;
      double sum = 0, log_sum = 0;
      for (std::size_t j = 0; j < n; ++j) {
        sum += plain[j] * std::pow(used[j], power);
        log_sum += logarithmic[j] * std::pow(std::log(used[j]), power);
      }
      EXPECT_NEAR(sum, (std::pow(next, power + 1) - std::pow(nodes[0], power + 1)) /
                           (power + 1), 1e-12);
      EXPECT_NEAR(log_sum, by_parts, 1e-12);
    }
  }
  // Equal steps: Adams and Bashforth's own numbers, in both ways of finding them.
  const auto equal = deis_weights({0.3, 0.2, 0.1, 0.0}, 0.4, SlopePolynomial::equal);
  const auto rho = deis_weights({0.3, 0.2, 0.1, 0.0}, 0.4, SlopePolynomial::rho);
  for (std::size_t j = 0; j < 4; ++j) EXPECT_NEAR(equal[j], rho[j], 1e-14);
}

// The logarithm of sigma 0 is no node: the last step is Euler's, to the denoised state.
TEST(Deis, LogarithmEndsInData) {
  MixtureModel model(ModelKind::denoiser, {1}, at::ones({1}, at::kDouble),
                     at::full({1, 1}, 0.7, at::kDouble), at::full({1}, 0.4, at::kDouble));
  CountingModel counting(model);
  const Schedule schedule{.times = {3, 1.5, 0.6, 0.2, 0}, .sigma = true, .source = "test"};
  const at::Tensor out = run("deis", R"({"polynomial": "log_rho"})", counting,
                             normals(6, 1), schedule);
  Context ctx;
  EXPECT_LT(largest_gap(out, model.denoise(counting.inputs.back(),
                                           at::full({6}, 0.2, at::kDouble), {}, ctx).value),
            1e-14);
}

TEST(Deis, UniformTimeOnVelocities) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  const at::Tensor latents = normals(8, 2);
  const Schedule schedule = make_schedule(flow.info(), {.steps = 400});
  const at::Tensor exact = -1.1 + 1.7 * latents;
  // On equal steps both are the same method; its first step, Euler's, sets the error.
  const at::Tensor deis = run("deis", R"({"order": 4})", flow, latents, schedule);
  EXPECT_LT(largest_gap(run("ipndm", "{}", flow, latents, schedule), deis), 1e-10);
  EXPECT_LT(largest_gap(deis, exact), 3e-4);
  EXPECT_THROW(run("deis", R"({"polynomial": "log_rho"})", flow, latents, schedule),
               UsageError);
}

TEST(Multistep, RefusesWhatContradictsItself) {
  const auto make = [](const char* solver, const char* options) {
    return make_sampler(solver, Config::from_text(options, "test"));
  };
  EXPECT_THROW(make("ddim", R"({"eta": 1.5})"), UsageError);
  EXPECT_THROW(make("dpmpp", R"({"order": 4})"), UsageError);
  EXPECT_THROW(make("dpmpp", R"({"sde": true, "prediction": "noise"})"), UsageError);
  EXPECT_THROW(make("dpmpp", R"({"sde": true, "eta": 0})"), UsageError);
  EXPECT_THROW(make("unipc", R"({"solver_type": "midpoint"})"), UsageError);
}

}  // namespace
}  // namespace flowmap::samplers
