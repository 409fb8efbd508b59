// Guidance by another network, by the same one without classes, and as an input.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "samplers/engine.h"
#include "samplers/guided.h"
#include "tests/support/analytic_models.h"

namespace flowmap::samplers {
namespace {

using flowmap::testing::AnalyticModel;
using flowmap::testing::CountingModel;
using ::testing::HasSubstr;

// Every view is 10 for class 0, 20 for class 1 and 1 without a class, plus `offset`, times
// Condition::guidance where it is an input.
class ByClass : public AnalyticModel {
 public:
  explicit ByClass(ModelKind kind, double offset = 0, int64_t label_dim = 2)
      : AnalyticModel({.kind = kind, .sample_shape = {1}, .label_dim = label_dim}),
        offset_(offset) {}
  ModelInfo& about() { return info_; }
  Dual velocity(const Dual& x, const Dual&, const Condition& c, Context&) override {
    return value(x, c);
  }
  Dual average_velocity(const Dual& x, const Dual&, const Dual&, const Condition& c,
                        Context&) override {
    return value(x, c);
  }
  Dual denoise(const Dual& x, const Dual&, const Condition& c, Context&) override {
    return value(x, c);
  }
  std::vector<at::Tensor> scales;

 private:
  Dual value(const Dual& x, const Condition& c) {
    at::Tensor out = at::full_like(x.value, 1 + offset_);
    if (c.class_labels.defined()) {
      const at::Tensor none = c.class_labels.sum(1, true).eq(0);
      const at::Tensor row =
          c.class_labels.matmul(at::tensor({10., 20.}, at::kDouble)).unsqueeze(1);
      out = at::where(none, out, row + offset_);
    }
    if (c.guidance.defined()) {
      scales.push_back(c.guidance);
      out = out * c.guidance.unsqueeze(1);
    }
    return out;
  }
  double offset_;
};

// [views, B, 1]: velocity, average velocity, denoiser.
std::vector<double> views(Model& model, const at::Tensor& labels) {
  Condition condition;
  condition.class_labels = labels;
  Context ctx;
  const at::Tensor x = at::zeros({1, 1}, at::kDouble), t = at::full({1}, 0.5, at::kDouble);
  return {model.velocity(x, t, condition, ctx).value.item<double>(),
          model.average_velocity(x, t, t, condition, ctx).value.item<double>(),
          model.denoise(x, t, condition, ctx).value.item<double>()};
}
at::Tensor one_hot_of(int64_t label) {
  return at::one_hot(at::tensor({label}), 2).to(at::kDouble);
}

TEST(Guided, EveryViewIsBlendedAwayFromTheOneWithoutClasses) {
  for (const ModelKind kind :
       {ModelKind::velocity, ModelKind::denoiser, ModelKind::flow_map}) {
    GuidedModel guided(std::make_shared<ByClass>(kind), 3);
    EXPECT_EQ(guided.networks(), 2);
    EXPECT_EQ(guided.info().kind, kind);
    for (const double value : views(guided, one_hot_of(1)))
      EXPECT_DOUBLE_EQ(value, 1 + 3 * (20 - 1));
  }
}

TEST(Guided, ByAnotherNetworkWithAndWithoutClasses) {
  const auto main = std::make_shared<ByClass>(ModelKind::velocity);
  GuidedModel same(main, std::make_shared<ByClass>(ModelKind::velocity, 4), 2);
  for (const double value : views(same, one_hot_of(0)))
    EXPECT_DOUBLE_EQ(value, 14 + 2 * (10 - 14));
  GuidedModel none(main, std::make_shared<ByClass>(ModelKind::velocity, 4, 0), 2);
  for (const double value : views(none, one_hot_of(0)))
    EXPECT_DOUBLE_EQ(value, 5 + 2 * (10 - 5));
}

TEST(Guided, ScaleOneAsksOneNetwork) {
  const auto inner = std::make_shared<ByClass>(ModelKind::velocity);
  const auto main = std::make_shared<CountingModel>(*inner);
  const auto guide = std::make_shared<CountingModel>(*inner);
  GuidedModel guided(main, guide, 1);
  views(guided, one_hot_of(0));
  EXPECT_EQ(main->evaluations(), 3);
  EXPECT_EQ(guide->evaluations(), 0);
  EXPECT_EQ(networks_of(guided), 1);
  const Schedule schedule = make_schedule(guided.info(), {.steps = 4});
  const auto heun = make_sampler("heun", Config());
  EXPECT_EQ(network_evaluations(*heun, guided, schedule), 8);
  EXPECT_EQ(network_evaluations(*heun, GuidedModel(main, guide, 2), schedule), 16);
  EXPECT_EQ(network_evaluations(*heun, *inner, schedule), 8);
}

TEST(Guided, TangentsAreBlendedToo) {
  auto flow = std::make_shared<flowmap::testing::GaussianFlow>(std::vector<int64_t>{1}, 0,
                                                               1, 0.2, 0.3);
  auto other = std::make_shared<flowmap::testing::GaussianFlow>(std::vector<int64_t>{1}, 0,
                                                                1, 0.5, 0.6);
  GuidedModel guided(flow, other, 2.5);
  Context ctx;
  const Dual x(at::full({1, 1}, 0.7, at::kDouble), at::ones({1, 1}, at::kDouble));
  const Dual t = at::full({1}, 0.4, at::kDouble);
  const Dual a = flow->velocity(x, t, {}, ctx), b = other->velocity(x, t, {}, ctx);
  const Dual out = guided.velocity(x, t, {}, ctx);
  EXPECT_LT((out.tangent - (b.tangent + 2.5 * (a.tangent - b.tangent))).abs().item<double>(),
            1e-14);
}

// A network that takes the scale is asked once, with it.
TEST(Guided, AsAnInput) {
  ByClass model(ModelKind::flow_map);
  model.about().guidance_input = true;
  GenerateRequest request;
  request.seeds = {1, 2, 3};
  request.classes = at::tensor({0, 1, 0}, at::kLong);
  request.precision.type = at::kDouble;
  request.guidance = 2;
  const auto sampler = make_sampler("flow_map", Config());
  const Schedule schedule = make_schedule(model.info(), {.steps = 1});
  EXPECT_EQ(network_evaluations(*sampler, model, schedule), 1);
  at::Tensor samples;
  const auto keep = [&](const GeneratedBatch& batch) {
    samples = batch.samples;
    return true;
  };
  generate_batches(model, *sampler, schedule, request, keep);
  ASSERT_EQ(model.scales.size(), 1u);
  EXPECT_EQ(model.scales[0].sizes(), (std::vector<int64_t>{3}));
  EXPECT_DOUBLE_EQ(model.scales[0].min().item<double>(), 2);
  const at::Tensor latents =
      Draw::per_seed(request.seeds).normal("latents", {1}).to(at::kDouble);
  EXPECT_LT((samples - latents - at::tensor({20., 40., 20.}, at::kDouble).unsqueeze(1))
                .abs().max().item<double>(), 1e-13);
  // Others refuse it.
  model.about().guidance_input = false;
  EXPECT_THROW(generate_batches(model, *sampler, schedule, request, keep), UsageError);
}

TEST(Guided, RefusesWhatDoesNotFit) {
  const auto refusal = [](auto main, auto guide) -> std::string {
    try {
      GuidedModel(main, guide, 2);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  const auto velocity = std::make_shared<ByClass>(ModelKind::velocity);
  EXPECT_THAT(refusal(velocity, std::make_shared<ByClass>(ModelKind::denoiser)),
              HasSubstr("a denoiser cannot guide a velocity"));
  EXPECT_THAT(refusal(velocity, std::make_shared<ByClass>(ModelKind::velocity, 0, 3)),
              HasSubstr("3 classes"));
  auto wide = std::make_shared<ByClass>(ModelKind::velocity);
  wide->about().sample_shape = {2};
  EXPECT_THAT(refusal(velocity, wide), HasSubstr("shape"));
  auto other_noise = std::make_shared<ByClass>(ModelKind::velocity);
  other_noise->about().base_std = 2;
  EXPECT_THAT(refusal(velocity, other_noise), HasSubstr("base_std"));
  EXPECT_THROW(GuidedModel(std::make_shared<ByClass>(ModelKind::velocity, 0, 0), 2),
               UsageError);
}

}  // namespace
}  // namespace flowmap::samplers
