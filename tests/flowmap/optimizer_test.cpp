// Adam, AdamW, RAdam against PyTorch's own numbers, and clipping.
#include "flowmap/train/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "tests/support/training_reference.h"

namespace flowmap {
namespace {

using testing::difference;
using testing::MethodReference;
using ::testing::HasSubstr;

std::vector<NamedTensor> two_parameters(const MethodReference& reference) {
  std::vector<NamedTensor> parameters = {{"p0", reference.at("opt/p0").clone()},
                                         {"p1", reference.at("opt/p1").clone()}};
  for (NamedTensor& p : parameters) p.tensor.set_requires_grad(true);
  return parameters;
}

at::Tensor flattened(const std::vector<NamedTensor>& parameters) {
  std::vector<at::Tensor> parts;
  for (const NamedTensor& p : parameters) parts.push_back(p.tensor.detach().flatten());
  return at::cat(parts);
}

// Runs the stored gradients through a case; rows are the parameters after each step.
at::Tensor run_case(const MethodReference& reference, const std::string& name,
                    double gradient_scale) {
  const Config config = reference.config(name), defaults = config.child("defaults");
  OptimizerOptions options;
  const std::string rule = config.string("optimiser");
  options.rule = rule == "Adam"    ? OptimizerRule::adam
                 : rule == "AdamW" ? OptimizerRule::adamw
                                   : OptimizerRule::radam;
  options.beta1 = defaults.numbers("betas")[0];
  options.beta2 = defaults.numbers("betas")[1];
  options.eps = defaults.number("eps");
  options.weight_decay = defaults.number("weight_decay");
  const double clip = config.number("clip_norm", 0.0);
  const std::vector<double> rates =
      config.numbers("lrs", std::vector<double>(8, defaults.number("lr")));
  const std::vector<double> norms =
      reference.item(name).numbers("grad_norms", std::vector<double>{});

  std::vector<NamedTensor> parameters = two_parameters(reference);
  Optimizer optimizer(options, parameters);
  std::vector<at::Tensor> rows;
  for (std::size_t k = 0; k < 8; ++k) {
    optimizer.zero_grad();
    for (std::size_t i = 0; i < 2; ++i)
      parameters[i].tensor.mutable_grad() =
          reference.at("opt/g" + std::to_string(i))[static_cast<int64_t>(k)]
              .mul(gradient_scale);
    const double norm = gradient_norm(parameters).item<double>();
    if (!norms.empty()) {
      EXPECT_NEAR(norm, norms[k], 1e-12 * norms[k]) << name;
    }
    if (clip > 0) clip_gradients(parameters, norm, clip);
    optimizer.step(rates[k]);
    rows.push_back(flattened(parameters));
  }
  EXPECT_EQ(optimizer.steps(), 8);
  return at::stack(rows);
}

TEST(OptimizerReference, EqualsPyTorch) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  // Options we do not offer: amsgrad, clipping by value, decoupled RAdam, SGD.
  for (const char* name :
       {"opt_adam", "opt_adam_b0", "opt_adam_b99", "opt_adam_l2", "opt_adam_clip1",
        "opt_adam_warmup_from_zero", "opt_adamw", "opt_adamw_wd", "opt_radam",
        "opt_radam_clip", "opt_radam_wd"})
    EXPECT_LT(difference(run_case(reference, name, 1),
                         reference.at(std::string(name) + "/params")), 1e-12)
        << name;
}

TEST(OptimizerReference, TinyGradientsShowWhereEpsStands) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  for (const char* name : {"opt_adam_tiny_gradient", "opt_radam_tiny_gradient"})
    EXPECT_LT(difference(run_case(reference, name, 1e-7),
                         reference.at(std::string(name) + "/params")), 1e-12)
        << name;
}

// flow_maps.md 3.3; Liu et al. 2020: the rectification starts at the sixth step.
TEST(Optimizer, RadamRectificationPins) {
  for (int64_t k = 1; k <= 5; ++k) EXPECT_EQ(radam_rectification(k, 0.999), 0) << k;
  EXPECT_NEAR(radam_rectification(6, 0.999), 0.0258, 5e-5);
  EXPECT_NEAR(radam_rectification(100, 0.999), 0.215, 5e-4);
  EXPECT_NEAR(radam_rectification(1000, 0.999), 0.645, 5e-4);
  EXPECT_NEAR(radam_rectification(5000, 0.999), 0.983, 5e-4);
}

// Without references: the first steps by hand. Adam's first step is lr * sign(g).
TEST(Optimizer, FirstStepsByHand) {
  for (const OptimizerRule rule :
       {OptimizerRule::adam, OptimizerRule::adamw, OptimizerRule::radam}) {
    std::vector<NamedTensor> p = {{"a", at::tensor({1.0, -2.0}, at::kDouble)}};
    Optimizer optimizer({.rule = rule, .weight_decay = 0}, p);
    p[0].tensor.mutable_grad() = at::tensor({0.5, -4.0}, at::kDouble);
    optimizer.step(0.1);
    const at::Tensor expected =
        rule == OptimizerRule::radam ? at::tensor({0.95, -1.6}, at::kDouble)
                                     : at::tensor({0.9, -1.9}, at::kDouble);
    EXPECT_LT(difference(p[0].tensor, expected), 1e-7);
  }
}

TEST(Optimizer, ClipsOnlyAboveTheLimit) {
  std::vector<NamedTensor> p = {{"a", at::zeros({2})}, {"unused", at::zeros({3})}};
  p[0].tensor.mutable_grad() = at::tensor({3.0f, 4.0f});
  EXPECT_DOUBLE_EQ(gradient_norm(p).item<double>(), 5);
  clip_gradients(p, 5, 5.1);
  EXPECT_TRUE(at::equal(p[0].tensor.grad(), at::tensor({3.0f, 4.0f})));
  clip_gradients(p, 5, 1);
  EXPECT_LT(difference(p[0].tensor.grad(), at::tensor({0.6f, 0.8f})), 1e-6);
  EXPECT_FALSE(p[1].tensor.grad().defined());
}

TEST(Optimizer, NormSeesWhatIsNotFiniteAndNothingElse) {
  std::vector<NamedTensor> p = {{"a", at::zeros({2})}, {"b", at::zeros({1})}};
  p[0].tensor.mutable_grad() = at::tensor({3e30f, 4e30f});  // squares overflow float32
  EXPECT_NEAR(gradient_norm(p).item<double>(), 5e30, 1e24);
  p[1].tensor.mutable_grad() = at::full({1}, NAN);
  EXPECT_FALSE(std::isfinite(gradient_norm(p).item<double>()));
  p[1].tensor.mutable_grad() = at::full({1}, -INFINITY);
  EXPECT_FALSE(std::isfinite(gradient_norm(p).item<double>()));
}

TEST(Optimizer, LeavesParametersWithoutGradient) {
  std::vector<NamedTensor> p = {{"a", at::ones({2})}, {"b", at::ones({2})}};
  Optimizer optimizer({.rule = OptimizerRule::adamw, .weight_decay = 0.5}, p);
  p[0].tensor.mutable_grad() = at::ones({2});
  optimizer.step(0.1);
  EXPECT_TRUE(at::equal(p[1].tensor, at::ones({2})));
  EXPECT_FALSE(at::equal(p[0].tensor, at::ones({2})));
  optimizer.zero_grad();
  EXPECT_FALSE(p[0].tensor.grad().defined());
}

// Three steps, the state carried over, three more: as six at once, to the bit.
TEST(Optimizer, StateContinuesExactly) {
  const auto gradient = [](int k) {
    return at::tensor({0.1f * static_cast<float>(k), -0.7f, 0.3f});
  };
  const OptimizerOptions options{.rule = OptimizerRule::radam, .weight_decay = 0.01};
  std::vector<NamedTensor> whole = {{"a", at::ones({3})}}, parts = {{"a", at::ones({3})}};
  Optimizer once(options, whole);
  for (int k = 1; k <= 12; ++k) {
    whole[0].tensor.mutable_grad() = gradient(k);
    once.step(0.1);
  }
  Optimizer before(options, parts);
  for (int k = 1; k <= 7; ++k) {
    parts[0].tensor.mutable_grad() = gradient(k);
    before.step(0.1);
  }
  Optimizer after(options, parts);
  after.load_state(before.state());
  EXPECT_EQ(after.steps(), 7);
  for (int k = 8; k <= 12; ++k) {
    parts[0].tensor.mutable_grad() = gradient(k);
    after.step(0.1);
  }
  EXPECT_TRUE(at::equal(whole[0].tensor, parts[0].tensor));
}

TEST(Optimizer, RefusesAnotherState) {
  const std::vector<NamedTensor> p = {{"a", at::ones({3})}};
  Optimizer optimizer({}, p);
  auto state = optimizer.state();
  const auto refusal = [&]() -> std::string {
    try {
      optimizer.load_state(state);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  state["exp_avg/a"] = at::ones({2});
  EXPECT_THAT(refusal(), HasSubstr("exp_avg/a"));
  state.erase("exp_avg/a");
  EXPECT_THAT(refusal(), HasSubstr("exp_avg/a"));
  state = optimizer.state();
  state.erase("step");
  EXPECT_THAT(refusal(), HasSubstr("step"));
}

TEST(OptimizerOptions, AreReadAndChecked) {
  const auto read = [](const char* text) {
    return read_optimizer_options(Config::from_text(text, "test"));
  };
  EXPECT_EQ(read("{}").rule, OptimizerRule::adam);
  EXPECT_EQ(read("{}").weight_decay, 0);
  const OptimizerOptions options =
      read(R"({"type": "adamw", "beta1": 0.8, "beta2": 0.95, "eps": 1e-6})");
  EXPECT_EQ(options.rule, OptimizerRule::adamw);
  EXPECT_EQ(options.beta1, 0.8);
  EXPECT_EQ(options.beta2, 0.95);
  EXPECT_EQ(options.eps, 1e-6);
  EXPECT_EQ(options.weight_decay, 0.01);  // PyTorch's default
  EXPECT_THROW(read(R"({"type": "sgd"})"), UsageError);
  EXPECT_THROW(read(R"({"beta2": 1})"), UsageError);
}

}  // namespace
}  // namespace flowmap
