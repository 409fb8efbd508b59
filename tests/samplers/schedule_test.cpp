// Knots: uniform times, the user's lists, and what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "flowmap/base/error.h"
#include "samplers/sampler.h"

namespace flowmap::samplers {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelInfo info_of(ModelKind kind) { return {.kind = kind, .sample_shape = {2}}; }

std::string refusal(const ModelInfo& info, const SampleOptions& options) {
  try {
    make_schedule(info, options);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Schedule, DefaultsFollowTheKind) {
  EXPECT_THAT(make_schedule(info_of(ModelKind::flow_map), {}).times, ElementsAre(0, 1));
  EXPECT_THAT(make_schedule(info_of(ModelKind::velocity), {.steps = 4}).times,
              ElementsAre(0, 0.25, 0.5, 0.75, 1));
  EXPECT_EQ(make_schedule(info_of(ModelKind::denoiser), {}).times.size(), 19u);
  ModelInfo generator = info_of(ModelKind::denoiser);
  generator.init_sigma = 2.5;
  EXPECT_THAT(make_schedule(generator, {}).times, ElementsAre(2.5, 0));
}

TEST(Schedule, ModelRangeIsTheDefault) {
  ModelInfo info = info_of(ModelKind::denoiser);
  info.sigma_min = 0.01;
  info.sigma_max = 50;
  const auto times = make_schedule(info, {.steps = 3}).times;
  EXPECT_EQ(times[0], 50);
  EXPECT_EQ(times[2], 0.01);
  EXPECT_EQ(make_schedule(info, {.steps = 3, .sigma_max = 20}).times[0], 20);
}

TEST(Schedule, KnotsAreConvertedByTheBaseDeviation) {
  ModelInfo velocity = info_of(ModelKind::velocity);
  velocity.base_std = 0.5;
  const auto times = make_schedule(velocity, {.sigma_steps = {1.5, 0.5, 0}}).times;
  EXPECT_THAT(times, ElementsAre(0.25, 0.5, 1));
  ModelInfo denoiser = info_of(ModelKind::denoiser);
  denoiser.base_std = 0.5;
  const Schedule back = make_schedule(denoiser, {.t_steps = {0.25, 0.5, 1}});
  EXPECT_TRUE(back.sigma);
  EXPECT_THAT(back.times, ElementsAre(1.5, 0.5, 0));
  // Time 0 is the highest sigma the model knows.
  denoiser.sigma_max = 7;
  EXPECT_THAT(make_schedule(denoiser, {.t_steps = {0, 0.5, 1}}).times,
              ElementsAre(7, 0.5, 0));
}

TEST(Schedule, RefusesWhatCannotBe) {
  const ModelInfo flow = info_of(ModelKind::flow_map);
  ModelInfo denoiser = info_of(ModelKind::denoiser);
  denoiser.sigma_max = 80;
  EXPECT_THAT(refusal(flow, {.steps = -1}), HasSubstr("--steps"));
  EXPECT_THAT(refusal(flow, {.t_steps = {0}}), HasSubstr("two knots"));
  EXPECT_THAT(refusal(flow, {.t_steps = {0, 0.5, 0.5, 1}}), HasSubstr("knot 3"));
  EXPECT_THAT(refusal(flow, {.t_steps = {0, 0.5}}), HasSubstr("not from 0 to 0.5"));
  EXPECT_THAT(refusal(flow, {.t_steps = {-0.1, 1}}), HasSubstr("outside [0, 1]"));
  EXPECT_THAT(refusal(flow, {.steps = 3, .t_steps = {0, 1}}), HasSubstr("--steps"));
  EXPECT_THAT(refusal(flow, {.t_steps = {0, 1}, .sigma_steps = {1, 0}}),
              HasSubstr("give one"));
  EXPECT_THAT(refusal(flow, {.steps = 2, .sigma_max = 80}), HasSubstr("flow_map"));
  EXPECT_THAT(refusal(denoiser, {.sigma_steps = {80, 1}}), HasSubstr("sigma 0"));
  EXPECT_THAT(refusal(denoiser, {.sigma_steps = {1, 80, 0}}), HasSubstr("fall"));
  EXPECT_THAT(refusal(denoiser, {.sigma_steps = {100, 1, 0}}), HasSubstr("above 80"));
  EXPECT_THAT(refusal(denoiser, {.sigma_max = 100}), HasSubstr("above 80"));
  EXPECT_THAT(refusal(denoiser, {.sigma_min = 90, .sigma_max = 80}),
              HasSubstr("not below"));
  EXPECT_THAT(refusal(denoiser, {.sigma_max = 80, .rho = 0}), HasSubstr("--rho"));
  SampleOptions grid{.steps = 4};
  grid.discretization = "iddmp";
  EXPECT_THAT(refusal(denoiser, grid), HasSubstr("did you mean 'iddpm'"));
  grid.discretization = "iddpm";
  EXPECT_THAT(refusal(flow, grid), HasSubstr("--disc"));
  grid.m = 3;
  EXPECT_THAT(refusal(denoiser, grid), HasSubstr("raise --M"));
  grid.m = 0;
  EXPECT_THAT(refusal(denoiser, grid), HasSubstr("--M"));
  grid.epsilon_s = 1;
  EXPECT_THAT(refusal(denoiser, grid), HasSubstr("--epsilon_s"));
}

TEST(SamplerRegistry, UnknownNameHintsAtTheNearest) {
  try {
    make_sampler("huen", Config());
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("heun"));
  }
}

// Levels 1, 2, 4 and 8 only.
class FewLevels : public Model {
 public:
  ModelInfo info() const override { return info_of(ModelKind::denoiser); }
  at::Tensor round_sigma(const at::Tensor& sigma) const override {
    return at::exp2(at::round(at::log2(sigma)).clamp(0, 3));
  }
  Dual raw(const Dual& x, const Dual&, const Dual&, const Condition&, Context&) override {
    return x;
  }
  double multiply_adds() const override { return 0; }
};

TEST(Schedule, KnotsFallOnKnownLevels) {
  FewLevels model;
  Schedule schedule;
  schedule.sigma = true;
  schedule.times = {7, 4.5, 3.9, 1.2, 0.3, 0};
  EXPECT_THAT(at_known_levels(model, schedule).times, ElementsAre(8, 4, 1, 0));
  schedule.sigma = false;  // times are no levels
  EXPECT_EQ(at_known_levels(model, schedule).times.size(), 6u);
}

}  // namespace
}  // namespace flowmap::samplers
