// Jumps with noise between them, on closed-form maps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "samplers/jumps.h"
#include "tests/samplers/sampler_reference.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::CountingModel;
using flowmap::testing::GaussianFlow;
using flowmap::testing::MixtureModel;
using flowmap::testing::no_noise;
using ::testing::HasSubstr;

at::Tensor latents_of(int64_t rows) {
  return Draw(3, 0, rows).normal("latents", {1}).to(at::kDouble);
}

// With an exact map every gamma leaves the distribution of the data as it is, whatever the
// knots are; the samples change with gamma.
TEST(Jumps, NoiseKeepsTheDistributionOfAnExactMap) {
  const int64_t rows = 40000;
  const double mean = -0.4, spread = 0.6;
  GaussianFlow flow({1}, 0, 1.5, mean, spread);
  const at::Tensor latents = latents_of(rows);
  const Schedule schedule = make_schedule(flow.info(), {.t_steps = {0, 0.2, 0.5, 0.9, 1}});
  const at::Tensor still = solve_jumps(flow, latents, {}, schedule, {}, no_noise());
  for (const double gamma : {0.3, 0.8, 1.0}) {
    const at::Tensor out = solve_jumps(flow, latents, {}, schedule, {.churn = {gamma}},
                                       noise_of(Draw(9, 0, rows), latents));
    EXPECT_NEAR(out.mean().item<double>(), mean, 5 * spread / std::sqrt(rows)) << gamma;
    EXPECT_NEAR(out.std().item<double>(), spread, 5 * spread / std::sqrt(2. * rows));
    EXPECT_GT((out - still).abs().mean().item<double>(), 0.1 * gamma) << gamma;
  }
}

// gamma 1 jumps to the data each time; gamma between goes past the knot, to the level
// sqrt(1 - gamma^2) sigma; without it a jump ends on the knot.
TEST(Jumps, GammaIsTheConsistencyTrajectoryModels) {
  GaussianFlow flow({1}, 0, 1, 0.2, 0.3);
  const Schedule schedule = make_schedule(flow.info(), {.t_steps = {0, 0.5, 1}});
  const at::Tensor latents = latents_of(4);
  const auto targets = [&](double gamma, std::vector<at::Tensor>* inputs) {
    CountingModel counting(flow);
    solve_jumps(counting, latents, {}, schedule, {.churn = {gamma}}, [&](std::size_t) {
      return at::ones({4, 1}, at::kDouble);
    });
    if (inputs) *inputs = counting.inputs;
    return counting.times;
  };
  EXPECT_THAT(targets(0, nullptr), ::testing::ElementsAre(0, 0.5, 0.5, 1));
  std::vector<at::Tensor> inputs;
  EXPECT_THAT(targets(1, &inputs), ::testing::ElementsAre(0, 1, 0.5, 1));
  // x = t X_{0,1}(n) + (1-t) fresh.
  Context ctx;
  const at::Tensor zero = at::zeros({4}, at::kDouble), one = at::ones({4}, at::kDouble);
  const at::Tensor data = flow.map(latents, zero, one, {}, ctx).value;
  EXPECT_LT((inputs[1] - (0.5 * data + 0.5)).abs().max().item<double>(), 1e-14);
  // sigma is 1 at t = 0.5; gamma 0.6 goes on to sigma 0.8.
  const std::vector<double> between = targets(0.6, nullptr);
  EXPECT_NEAR(between[1], 1 / 1.8, 1e-14);
  EXPECT_EQ(between[2], 0.5);
}

TEST(Jumps, OfOtherModelsFollowTheirEstimate) {
  const at::Tensor latents = latents_of(8);
  MixtureModel velocity(ModelKind::velocity, {1}, at::ones({1}, at::kDouble),
                        at::full({1, 1}, 0.2, at::kDouble), at::full({1}, 0.3, at::kDouble));
  const Schedule schedule = make_schedule(velocity.info(), {.t_steps = {0, 0.3, 1}});
  CountingModel counting(velocity);
  const at::Tensor out = solve_jumps(counting, latents, {}, schedule, {}, no_noise());
  EXPECT_EQ(counting.velocities, 2);
  // DDIM's step is Euler's on the straight interpolant.
  Context ctx;
  at::Tensor x = latents;
  for (const auto& [t, next] : {std::pair{0., 0.3}, {0.3, 1.}})
    x = x + (next - t) *
                velocity.velocity(x, at::full({8}, t, at::kDouble), {}, ctx).value;
  EXPECT_LT((out - x).abs().max().item<double>(), 1e-13);
}

TEST(Jumps, OptionsAreCheckedByName) {
  const auto refusal = [](const char* solver, const char* text) -> std::string {
    try {
      make_sampler(solver, Config::from_text(text, "--solver-options"));
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refusal("flow_map", R"({"churn": 1.5})"), HasSubstr("between 0 (none) and 1"));
  EXPECT_THAT(refusal("flow_map", R"({"churn": [0.5, -1]})"), HasSubstr("not -1"));
  EXPECT_THAT(refusal("flow_map", R"({"S_churn": 1})"), HasSubstr("'S_churn'"));
  EXPECT_EQ(refusal("consistency", R"({"churn": [1, 0.5, 0], "epsilon": 0.002})"),
            "accepted");
  GaussianFlow flow({1}, 0, 1, 0.2, 0.3);
  const at::Tensor latents = latents_of(2);
  const auto sampler =
      make_sampler("flow_map", Config::from_text(R"({"churn": [0, 1]})", "test"));
  EXPECT_THROW(sampler->sample(flow, latents, {}, make_schedule(flow.info(), {.steps = 3}),
                               Draw(0, 0, 2)),
               UsageError);
  EXPECT_NO_THROW(sampler->sample(
      flow, latents, {}, make_schedule(flow.info(), {.steps = 2}), Draw(0, 0, 2)));
}

}  // namespace
}  // namespace flowmap::samplers
