// Samples to latents and back on closed-form flows; paths between latents.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <string>

#include "flowmap/base/error.h"
#include "samplers/inversion.h"
#include "tests/support/analytic_models.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::CountingModel;
using flowmap::testing::GaussianFlow;
using flowmap::testing::MixtureModel;

at::Tensor normals_of(int64_t rows, int64_t d) {
  return Draw(3, 0, rows).normal("latents", {d}).to(at::kDouble);
}
double gap(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

at::Tensor sample_with(const char* solver, Model& model, const at::Tensor& latents,
                       const Schedule& schedule) {
  return make_sampler(solver, Config())
      ->sample(model, latents, {}, schedule, Draw(0, 0, latents.size(0)));
}

TEST(Inversion, FindsTheLatentsOfAFlowByItsOrder) {
  GaussianFlow flow({2}, 0, 0.5, -1.1, 1.7);
  const at::Tensor latents = normals_of(32, 2);
  const at::Tensor samples =
      sample_with("flow_map", flow, latents, make_schedule(flow.info(), {.steps = 1}));
  const auto error = [&](bool second_order, int64_t steps) {
    return gap(invert(flow, samples, {}, make_schedule(flow.info(), {.steps = steps}),
                      second_order),
               latents);
  };
  EXPECT_LT(error(true, 256), 1e-4);
  EXPECT_NEAR(std::log2(error(true, 128) / error(true, 256)), 2, 0.1);
  EXPECT_NEAR(std::log2(error(false, 128) / error(false, 256)), 1, 0.1);
}

TEST(Inversion, RoundTripOfFlowsAndDenoisers) {
  const at::Tensor weights = at::tensor({0.4, 0.6}, at::kDouble);
  const at::Tensor means = at::tensor({-0.5, 0.2, 0.7, -0.3}, at::kDouble).view({2, 2});
  const at::Tensor spreads = at::tensor({0.3, 0.4}, at::kDouble);
  for (const ModelKind kind : {ModelKind::velocity, ModelKind::denoiser}) {
    MixtureModel model(kind, {2}, weights, means, spreads);
    const Schedule schedule = make_schedule(model.info(), {.steps = 300});
    const at::Tensor samples = sample_with("heun", model, normals_of(16, 2), schedule);
    const at::Tensor latents = invert(model, samples, {}, schedule, true);
    EXPECT_LT(gap(sample_with("heun", model, latents, schedule), samples), 2e-3)
        << model_kind_name(kind);
    // They are latents of that size, not samples carried through.
    EXPECT_GT((latents - samples).abs().mean().item<double>(), 0.1);
  }
}

TEST(Inversion, CostIsAsDeclared) {
  GaussianFlow flow({2}, 0, 1, 0.2, 0.3);
  MixtureModel denoiser(ModelKind::denoiser, {2}, at::ones({1}, at::kDouble),
                        at::zeros({1, 2}, at::kDouble), at::ones({1}, at::kDouble));
  for (Model* model : std::initializer_list<Model*>{&flow, &denoiser})
    for (const bool second : {false, true}) {
      CountingModel counting(*model);
      const Schedule schedule = make_schedule(model->info(), {.steps = 5});
      invert(counting, normals_of(3, 2), {}, schedule, second);
      EXPECT_EQ(counting.evaluations(), inversion_evaluations(schedule, second));
      EXPECT_EQ(counting.evaluations(), (schedule.sigma ? 4 : 5) * (second ? 2 : 1));
    }
  EXPECT_THROW(inversion_evaluations(make_schedule(denoiser.info(), {.steps = 1}), true),
               UsageError);
}

TEST(Slerp, KeepsTheLengthAndMeetsTheEnds) {
  const at::Tensor a = normals_of(4, 300);
  const at::Tensor b = Draw(8, 0, 4).normal("other", {300}).to(at::kDouble);
  EXPECT_LT(gap(slerp(a, b, 0), a), 1e-14);
  EXPECT_LT(gap(slerp(a, b, 1), b), 1e-14);
  // Unit vectors at 60 degrees: the middle is at 30 degrees, of length 1.
  const at::Tensor p = at::tensor({1., 0.}, at::kDouble).unsqueeze(0);
  const at::Tensor q =
      at::tensor({0.5, std::sqrt(0.75)}, at::kDouble).unsqueeze(0);
  EXPECT_LT(gap(slerp(p, q, 0.5),
                at::tensor({std::sqrt(0.75), 0.5}, at::kDouble).unsqueeze(0)), 1e-14);
  // Equal rows stay, opposite ones do not become NaN.
  EXPECT_LT(gap(slerp(p, p, 0.3), p), 1e-14);
  EXPECT_TRUE(slerp(p, -p, 0.5).isfinite().all().item<bool>());
}

TEST(Slerp, PathsRunThroughEveryLatent) {
  const at::Tensor latents = normals_of(3, 50).view({3, 2, 5, 5});
  const at::Tensor path = interpolate_latents(latents, 4);
  EXPECT_EQ(path.sizes(), (std::vector<int64_t>{9, 2, 5, 5}));
  EXPECT_LT(gap(path[0], latents[0]), 1e-14);
  EXPECT_LT(gap(path[4], latents[1]), 1e-14);
  EXPECT_TRUE(path[8].equal(latents[2]));
  EXPECT_LT(gap(path[6], slerp(latents.slice(0, 1, 2), latents.slice(0, 2, 3), 0.5)[0]),
            1e-14);
}

}  // namespace
}  // namespace flowmap::samplers
