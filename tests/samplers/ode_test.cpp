// Samplers against closed-form flows, and their declared cost.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <string>

#include "flowmap/base/error.h"
#include "samplers/engine.h"
#include "samplers/sampler.h"
#include "tests/support/analytic_models.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::CountingModel;
using flowmap::testing::GaussianFlow;
using flowmap::testing::MixtureModel;

at::Tensor run(const std::string& name, Model& model, const at::Tensor& latents,
               const Schedule& schedule) {
  return make_sampler(name, Config())
      ->sample(model, latents, {}, schedule, Draw(0, 0, latents.size(0)));
}

at::Tensor normals(int64_t rows, int64_t d) {
  return Draw(3, 0, rows).normal("latents", {d}).to(at::kDouble);
}

double largest_gap(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

// log2 of the factor by which the error at t = 1 falls when the steps are doubled.
double observed_order(const std::string& name, GaussianFlow& flow, int64_t steps) {
  const at::Tensor latents = normals(64, 2);
  Context ctx;
  const at::Tensor zero = at::zeros({64}, at::kDouble), one = at::ones({64}, at::kDouble);
  const at::Tensor x0 = latents * flow.info().base_std;
  const at::Tensor exact = flow.map(x0, zero, one, {}, ctx).value;
  ModelInfo info = flow.info();
  const auto error = [&](int64_t n) {
    return largest_gap(run(name, flow, latents, make_schedule(info, {.steps = n})), exact);
  };
  return std::log2(error(steps) / error(2 * steps));
}

TEST(SamplerOrder, EulerIsFirstAndHeunSecond) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  EXPECT_NEAR(observed_order("euler", flow, 128), 1, 0.05);
  EXPECT_NEAR(observed_order("heun", flow, 128), 2, 0.05);
}

TEST(SamplerOrder, DenoiserInSigma) {
  // x_sigma of one Gaussian: x(0) = m + c / sqrt(c^2 + sigma^2) (x - m).
  const double c = 0.4, sigma = 3;
  MixtureModel model(ModelKind::denoiser, {1}, at::ones({1}, at::kDouble),
                     at::full({1, 1}, 0.7, at::kDouble), at::full({1}, c, at::kDouble));
  const at::Tensor latents = normals(16, 1);
  const at::Tensor exact =
      0.7 + c / std::sqrt(c * c + sigma * sigma) * (latents * sigma - 0.7);
  const auto error = [&](const char* name, int64_t n) {
    SampleOptions options;
    for (int64_t i = n; i >= 0; --i)
      options.sigma_steps.push_back(sigma * std::pow(static_cast<double>(i) /
                                                     static_cast<double>(n), 2));
    return largest_gap(run(name, model, latents, make_schedule(model.info(), options)),
                       exact);
  };
  EXPECT_NEAR(std::log2(error("euler", 128) / error("euler", 256)), 1, 0.1);
  EXPECT_NEAR(std::log2(error("heun", 128) / error("heun", 256)), 2, 0.1);
}

TEST(FlowMapSampler, OneJumpEqualsMany) {
  GaussianFlow flow({3}, 0, 0.5, -1.1, 1.7);
  const at::Tensor latents = normals(32, 3);
  const auto jump = [&](const SampleOptions& options) {
    return run("flow_map", flow, latents, make_schedule(flow.info(), options));
  };
  const at::Tensor one = jump({.steps = 1});
  EXPECT_LT(largest_gap(one, -1.1 + 1.7 / 0.5 * (latents * 0.5)), 1e-12);
  EXPECT_LT(largest_gap(jump({.steps = 16}), one), 1e-12);
  EXPECT_LT(largest_gap(jump({.t_steps = {0, 0.03, 0.9, 1}}), one), 1e-12);
}

TEST(FlowMapSampler, OneStepCallsTheMapOnceFromNoiseToData) {
  GaussianFlow flow({2}, 0, 1, 0, 1);
  CountingModel counting(flow);
  run("flow_map", counting, normals(4, 2), make_schedule(flow.info(), {.steps = 1}));
  EXPECT_EQ(counting.averages, 1);
  EXPECT_EQ(counting.velocities, 0);
  EXPECT_THAT(counting.times, ::testing::ElementsAre(0, 1));
}

TEST(FlowMapSampler, RefusesModelsOfOneTime) {
  MixtureModel model(ModelKind::velocity, {1}, at::ones({1}, at::kDouble),
                     at::zeros({1, 1}, at::kDouble), at::ones({1}, at::kDouble));
  const Schedule schedule = make_schedule(model.info(), {.steps = 2});
  try {
    run("flow_map", model, normals(2, 1), schedule);
    FAIL() << "accepted";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("two times"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("heun"));
  }
}

TEST(Samplers, CostIsAsDeclared) {
  GaussianFlow flow({2}, 0, 1, 0.2, 0.3);
  for (const SamplerEntry& entry : sampler_registry())
    for (const int64_t steps : {1, 2, 5}) {
      CountingModel counting(flow);
      const Schedule schedule = make_schedule(flow.info(), {.steps = steps});
      const int64_t declared =
          make_sampler(entry.name, Config())->evaluations(flow.info(), schedule);
      if (declared == 0) continue;  // by tolerance
      run(entry.name, counting, normals(3, 2), schedule);
      EXPECT_EQ(counting.evaluations(), declared) << entry.name << " " << steps;
    }
}

TEST(Samplers, OneStepGeneratorStartsAtItsSigma) {
  MixtureModel model(ModelKind::denoiser, {1}, at::ones({1}, at::kDouble),
                     at::full({1, 1}, 0.7, at::kDouble), at::full({1}, 0.4, at::kDouble));
  model.set_init_sigma(2.5);
  CountingModel counting(model);
  const at::Tensor latents = normals(8, 1);
  const at::Tensor out = run("euler", counting, latents, make_schedule(model.info(), {}));
  Context ctx;
  const at::Tensor direct =
      model.denoise(latents * 2.5, at::full({8}, 2.5, at::kDouble), {}, ctx).value;
  EXPECT_LT(largest_gap(out, direct), 1e-14);
  EXPECT_THAT(counting.times, ::testing::ElementsAre(2.5));
}

// Latents enter at t_0 > 0 as the noise part of x_t, where EDM's sigma n says the same.
TEST(Samplers, BothClocksStartAlike) {
  const auto weights = at::ones({1}, at::kDouble), spread = at::full({1}, 0.4, at::kDouble);
  const auto mean = at::full({1, 1}, 0.7, at::kDouble);
  MixtureModel velocity(ModelKind::velocity, {1}, weights, mean, spread, 0.5);
  MixtureModel denoiser(ModelKind::denoiser, {1}, weights, mean, spread, 0.5);
  const at::Tensor latents = normals(8, 1);
  std::vector<double> knots;
  for (int i = 0; i <= 400; ++i) knots.push_back(0.02 + 0.98 * i / 400);
  const at::Tensor a =
      run("heun", velocity, latents, make_schedule(velocity.info(), {.t_steps = knots}));
  const at::Tensor b =
      run("heun", denoiser, latents, make_schedule(denoiser.info(), {.t_steps = knots}));
  EXPECT_LT(largest_gap(a, b), 1e-4);
}

TEST(Samplers, ScheduleInTheOtherUnitIsRefused) {
  GaussianFlow flow({2}, 0, 1, 0.2, 0.3);
  const Schedule sigma{.times = {1, 0}, .sigma = true, .source = "test"};
  EXPECT_THROW(run("euler", flow, normals(2, 2), sigma), UsageError);
}

TEST(Engine, ResultDoesNotDependOnPacking) {
  GaussianFlow flow({3}, 0, 1, 0.2, 0.3);
  GenerateRequest request;
  for (std::uint64_t s = 0; s < 10; ++s) request.seeds.push_back(s * s);
  request.precision.type = at::kDouble;
  const auto sampler = make_sampler("heun", Config());
  const Schedule schedule = make_schedule(flow.info(), {.steps = 3});
  const auto all = [&](int64_t batch) {
    request.batch = batch;
    std::vector<at::Tensor> parts;
    EXPECT_TRUE(generate_batches(flow, *sampler, schedule, request,
                                 [&](const GeneratedBatch& b) {
                                   EXPECT_EQ(b.first, static_cast<int64_t>(parts.size()) *
                                                          batch);
                                   parts.push_back(b.samples);
                                   return true;
                                 }));
    return at::cat(parts);
  };
  const at::Tensor whole = all(64);
  EXPECT_EQ(whole.size(0), 10);
  EXPECT_TRUE(all(1).equal(whole));
  EXPECT_TRUE(all(7).equal(whole));
  // Rows are the seeds', not the positions'.
  request.seeds = {81, 16};
  const at::Tensor two = all(64);
  EXPECT_TRUE(two[0].equal(whole[9]));
  EXPECT_TRUE(two[1].equal(whole[4]));
}

TEST(Engine, StopsWhenAskedAndRefusesClassesOfUnconditionalModels) {
  GaussianFlow flow({1}, 0, 1, 0.2, 0.3);
  GenerateRequest request;
  request.seeds = {0, 1, 2, 3};
  request.batch = 1;
  const auto sampler = make_sampler("euler", Config());
  const Schedule schedule = make_schedule(flow.info(), {.steps = 1});
  int calls = 0;
  EXPECT_FALSE(generate_batches(flow, *sampler, schedule, request,
                                [&](const GeneratedBatch&) { return ++calls < 2; }));
  EXPECT_EQ(calls, 2);
  request.classes = at::zeros({4}, at::kLong);
  EXPECT_THROW(generate_batches(flow, *sampler, schedule, request,
                                [](const GeneratedBatch&) { return true; }),
               UsageError);
}

// The oracles that other tests rely on, against pinned digits.
TEST(AnalyticModels, GaussianFlowPinned) {
  GaussianFlow flow({1}, 0.3, 0.5, -1.1, 1.7);
  Context ctx;
  const auto one = [](double v) { return at::full({1, 1}, v, at::kDouble); };
  const auto time = [](double v) { return at::full({1}, v, at::kDouble); };
  const Dual x(one(0.8)), s(time(0.2)), t(time(0.9), time(1));
  const Dual map = flow.map(x, s, t, {}, ctx);
  EXPECT_NEAR(map.value.item<double>(), 1.3144595045275804, 1e-14);
  EXPECT_NEAR(map.tangent.item<double>(), 1.1002166440484118, 1e-13);
  EXPECT_NEAR(flow.average_velocity(x, s, time(0.9), {}, ctx).value.item<double>(),
              0.7349421493251149, 1e-14);
  EXPECT_NEAR(flow.velocity(x, s, {}, ctx).value.item<double>(), -0.3301886792452835,
              1e-14);
  EXPECT_NEAR(flow.velocity(map.value, time(0.9), {}, ctx).value.item<double>(),
              1.1002166440484118, 1e-13);
  const Dual by_x = flow.map(Dual(one(0.8), one(1)), s, time(0.9), {}, ctx);
  EXPECT_NEAR(by_x.tangent.item<double>(), 2.915973723753308, 1e-13);
  const Dual by_s = flow.map(x, Dual(time(0.2), time(1)), time(0.9), {}, ctx);
  EXPECT_NEAR(by_s.tangent.item<double>(), 0.962821512560056, 1e-13);
}

TEST(AnalyticModels, MixtureMapPinnedAndIntegrated) {
  const std::vector<double> w{.3, .7}, m{-1.5, 1}, c{.2, .4};
  using flowmap::testing::mixture_map;
  EXPECT_NEAR(mixture_map(w, m, c, 1, 0, 1, .3), .953936023241, 1e-12);
  EXPECT_NEAR(mixture_map(w, m, c, 1, 0, 1, -.8), -1.391545466373, 1e-12);
  EXPECT_NEAR(mixture_map(w, m, c, 1, .2, .7, .1), .505985368488, 1e-12);
  EXPECT_NEAR(mixture_map(w, m, c, 1, .1, .95, -1.2), -1.5305336052304073, 1e-12);
  MixtureModel model(ModelKind::velocity, {1}, at::tensor(w, at::kDouble),
                     at::tensor(m, at::kDouble).unsqueeze(1), at::tensor(c, at::kDouble));
  const at::Tensor latents = at::tensor({.3, -.8}, at::kDouble).unsqueeze(1);
  const at::Tensor out =
      run("heun", model, latents, make_schedule(model.info(), {.steps = 2000}));
  EXPECT_NEAR(out[0].item<double>(), .953936023241, 1e-6);
  EXPECT_NEAR(out[1].item<double>(), -1.391545466373, 1e-6);
}

TEST(AnalyticModels, PointTargetAndShift) {
  flowmap::testing::PointTarget point({1}, 0.4);
  flowmap::testing::ShiftFlow shift({1}, 0.4);
  Context ctx;
  const auto x = at::full({1, 1}, 2.0, at::kDouble);
  const auto s = at::full({1}, 0.2, at::kDouble), t = at::full({1}, 0.6, at::kDouble);
  EXPECT_NEAR(point.map(x, s, t, {}, ctx).value.item<double>(), 0.4 + 0.5 * 1.6, 1e-15);
  EXPECT_NEAR(shift.map(x, s, t, {}, ctx).value.item<double>(), 2 + 0.4 * 0.4, 1e-15);
}

}  // namespace
}  // namespace flowmap::samplers
