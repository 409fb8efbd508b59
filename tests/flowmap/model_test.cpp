// Views of models: algebra between them, clocks, preconditionings, copies.
#include "flowmap/model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/nn/init.h"
#include "flowmap/ops.h"
#include "flowmap/preconditioning.h"
#include "tests/support/network_reference.h"

namespace flowmap {
namespace {

using testing::relative_error;

Config mlp_spec(const std::string& preconditioning, int64_t width = 16) {
  return Config::from_text(
      R"({"network": {"type": "mlp", "depth": 2, "width": )" + std::to_string(width) +
          R"(}, "sample_shape": [2], "preconditioning": )" + preconditioning + "}",
      "test");
}

std::shared_ptr<Model> double_model(const Config& spec) {
  auto model = make_model(spec, 3);
  spec.check_all_read();
  model->to(at::kDouble);
  return model;
}

at::Tensor points(int64_t n) {
  return at::sin(at::arange(2 * n, at::kDouble) * 1.7).view({n, 2});
}

// Denoiser and velocity of normal data with deviation d: x_t = (1-t) b n + t x1.
class GaussianDenoiser : public Model {
 public:
  GaussianDenoiser(double data, double base) : data_(data), base_(base) {}
  ModelInfo info() const override {
    ModelInfo about;
    about.kind = ModelKind::denoiser;
    about.base_std = base_;
    about.t_min = 1e-6;
    about.t_max = 1 - 1e-6;
    return about;
  }
  Dual denoise(const Dual& x, const Dual& sigma, const Condition&, Context&) override {
    const at::Tensor s2 = sigma.value.square().unsqueeze(1);
    return Dual(x.value * (data_ * data_) / (data_ * data_ + s2));
  }
  Dual raw(const Dual& x, const Dual&, const Dual&, const Condition&, Context&) override {
    return x;
  }
  double multiply_adds() const override { return 0; }

 private:
  double data_, base_;
};

TEST(Model, VelocityOfADenoiserIsExact) {
  const double data = 0.7, base = 1.3;
  GaussianDenoiser model(data, base);
  const at::Tensor x = points(5), t = at::linspace(0.1, 0.9, 5, at::kDouble);
  Context ctx;
  const at::Tensor v = model.velocity(Dual(x), Dual(t), {}, ctx).value;
  // E[x1 - b n | x] = x (t d^2 - (1-t) b^2) / (t^2 d^2 + (1-t)^2 b^2).
  const at::Tensor num = t * (data * data) - (1 - t) * (base * base);
  const at::Tensor den = t.square() * (data * data) + (1 - t).square() * (base * base);
  EXPECT_LT(relative_error(v, x * (num / den).unsqueeze(1)), 1e-13);
}

TEST(Model, ViewsInvertEachOther) {
  auto model = double_model(
      mlp_spec(R"({"type": "flow", "sigma_data": 0.6, "base_std": 0.8})"));
  const double b = model->info().base_std;
  const at::Tensor x = points(7), t = at::linspace(0.05, 0.95, 7, at::kDouble);
  Context ctx;
  const Dual sigma = sigma_from_t(Dual(t), b);
  EXPECT_LT(relative_error(t_from_sigma(sigma, b).value, t), 1e-14);
  const Dual v = model->velocity(Dual(x), Dual(t), {}, ctx);
  const at::Tensor column = t.unsqueeze(1);
  const at::Tensor d = model->denoise(Dual(x / column), sigma, {}, ctx).value;
  EXPECT_LT(relative_error((d - x) / (1 - column), v.value), 1e-12);
}

// A tangent of sigma through the denoiser, and of t through its velocity view.
TEST(Model, TangentsOfTimesFlowThroughViews) {
  for (const char* type : {"flow", "edm", "vp", "ve"}) {
    auto model = double_model(mlp_spec(R"({"type": ")" + std::string(type) + "\"}"));
    const at::Tensor x = points(5), dx = points(5).flip(0);
    const at::Tensor sigma = at::linspace(0.3, 3, 5, at::kDouble);
    const at::Tensor t = at::linspace(0.2, 0.8, 5, at::kDouble);
    const at::Tensor d = at::linspace(-1, 1.5, 5, at::kDouble);
    Context ctx;
    const double h = 1e-5;
    const auto denoised = [&](double e) {
      return model->denoise(Dual(x + e * dx), Dual(sigma + e * d), {}, ctx).value;
    };
    const auto velocity = [&](double e) {
      return model->velocity(Dual(x + e * dx), Dual(t + e * d), {}, ctx).value;
    };
    EXPECT_LT(relative_error(model->denoise({x, dx}, {sigma, d}, {}, ctx).tangent,
                             (denoised(h) - denoised(-h)) / (2 * h)), 1e-7) << type;
    EXPECT_LT(relative_error(model->velocity({x, dx}, {t, d}, {}, ctx).tangent,
                             (velocity(h) - velocity(-h)) / (2 * h)), 1e-7) << type;
  }
}

TEST(Model, DenoisersClampTheirTimes) {
  auto model = double_model(
      mlp_spec(R"({"type": "edm", "sigma_min": 0.01, "sigma_max": 50})"));
  const ModelInfo about = model->info();
  EXPECT_DOUBLE_EQ(about.t_min, 1 / 51.0);
  EXPECT_DOUBLE_EQ(about.t_max, 1 / 1.01);
  EXPECT_EQ(about.sigma_data, 0.5);
  Context ctx;
  const at::Tensor x = points(2);
  const at::Tensor ends = at::tensor({0.0, 1.0}, at::kDouble);
  const at::Tensor inside = at::tensor({about.t_min, about.t_max}, at::kDouble);
  const at::Tensor at_ends = model->velocity(Dual(x), Dual(ends), {}, ctx).value;
  EXPECT_TRUE(at_ends.isfinite().all().item<bool>());
  EXPECT_TRUE(at::equal(at_ends, model->velocity(Dual(x), Dual(inside), {}, ctx).value));
}

TEST(Model, OneTimeModelsHaveNoAverageVelocity) {
  Context ctx;
  const Dual x(points(2)), t(at::ones({2}, at::kDouble));
  for (const char* type : {"flow", "edm"}) {
    auto model = double_model(mlp_spec(R"({"type": ")" + std::string(type) + "\"}"));
    EXPECT_THROW(model->average_velocity(x, t, t, {}, ctx), UsageError);
    EXPECT_THROW(model->map(x, t, t, {}, ctx), UsageError);
    EXPECT_FALSE(model->has_log_weight());
    EXPECT_EQ(model->log_weight(t.value, t.value).abs().max().item<double>(), 0);
  }
}

// What the network is given: x / sigma_data, times the scale.
TEST(Model, FlowScalesInputsAndTimes) {
  auto model = double_model(mlp_spec(
      R"({"type": "flow", "two_times": true, "sigma_data": 0.25, "time_scale": 7})"));
  const at::Tensor x = points(3), s = at::linspace(0, 0.4, 3, at::kDouble),
                   t = at::linspace(0.5, 1, 3, at::kDouble);
  Context ctx;
  const at::Tensor v = model->average_velocity(Dual(x), Dual(s), Dual(t), {}, ctx).value;
  const at::Tensor f =
      model->raw(Dual(x / 0.25), Dual(s * 7), Dual(t * 7), {}, ctx).value;
  EXPECT_LT(relative_error(v, f * 0.25), 1e-14);
  EXPECT_EQ(model->info().kind, ModelKind::flow_map);
}

TEST(Model, TimeScaleDefaultsFollowTheNetwork) {
  const auto default_of = [](const char* network) {
    const Config spec = Config::from_text(
        R"({"network": {"type": ")" + std::string(network) +
            R"("}, "sample_shape": [3, 8, 8]})", "test");
    build_model(spec);
    const Config resolved = Config::from_text(spec.resolved_json(), "resolved");
    return resolved.child("preconditioning").number("time_scale");
  };
  EXPECT_EQ(default_of("ddpmpp"), 16);
  EXPECT_EQ(default_of("ncsnpp"), 1);
  EXPECT_EQ(default_of("mlp"), 1);
}

// s_gap: the network sees t - s, scaled, as its second time.
TEST(Model, GapsReachNetworksThatAskForThem) {
  const Config spec = Config::from_text(
      R"({"network": {"type": "ddpmpp", "model_channels": 8, "channel_mult": [1],
                      "num_blocks": 1}, "sample_shape": [1, 4, 4],
          "preconditioning": {"two_times": true, "time_scale": 10}})", "test");
  auto model = double_model(spec);
  const at::NoGradGuard no_grad;
  for (at::Tensor& p : model->parameters()) p.add_(at::sin(at::arange(
      p.numel(), p.options())).view_as(p) * 0.1);
  const at::Tensor x = at::cos(at::arange(32, at::kDouble)).view({2, 1, 4, 4});
  const at::Tensor s = at::tensor({0.1, 0.3}, at::kDouble);
  const at::Tensor t = at::tensor({0.8, 0.4}, at::kDouble);
  Context ctx;
  const at::Tensor v = model->average_velocity(Dual(x), Dual(s), Dual(t), {}, ctx).value;
  EXPECT_LT(relative_error(v, model->raw(Dual(x), Dual(s * 10), Dual((t - s) * 10), {},
                                         ctx).value), 1e-13);
  EXPECT_TRUE(at::equal(model->velocity(Dual(x), Dual(s), {}, ctx).value,
                        model->average_velocity(Dual(x), Dual(s), Dual(s), {}, ctx).value));
}

TEST(Model, ComputesInTheTypeOfItsWeights) {
  auto model = make_model(mlp_spec(R"({"type": "edm"})"), 3);
  Context ctx;
  const Dual x(points(2)), sigma(at::ones({2}, at::kDouble));
  EXPECT_EQ(model->denoise(x, sigma, {}, ctx).value.scalar_type(), at::kFloat);
  model->to(at::kDouble);
  EXPECT_EQ(model->denoise(x, sigma, {}, ctx).value.scalar_type(), at::kDouble);
}

TEST(Model, SigmaRangeOfVpIsThatOfItsClock) {
  const ModelInfo about = make_model(mlp_spec(R"({"type": "vp"})"), 0)->info();
  EXPECT_NEAR(about.sigma_max, 152.16697692871094, 1e-4);
  EXPECT_NEAR(about.sigma_min, std::sqrt(std::expm1(0.5 * 19.9e-10 + 0.1e-5)), 1e-12);
}

TEST(Model, LogWeightStartsAtZeroAndLearns) {
  auto model = make_model(
      mlp_spec(R"({"type": "flow", "two_times": true, "log_weight": true})"), 3);
  ASSERT_TRUE(model->has_log_weight());
  const at::Tensor s = at::tensor({0.0, 0.25, 0.9}), t = at::tensor({1.0, 0.25, 0.95});
  EXPECT_EQ(model->log_weight(s, t).abs().max().item<float>(), 0);
  at::Tensor vector = model->named_parameters()["log_weight.vector"];
  model->log_weight(s, t).sum().backward();
  EXPECT_GT(vector.grad().abs().max().item<float>(), 0.1);
  {
    const at::NoGradGuard no_grad;
    vector.fill_(0.5).narrow(0, 64, 64).fill_(-0.25);
  }
  // Pinned to the formula: frequencies 10000^(-k/64), cos before sin, scale 16.
  double expected = 0;
  for (int k = 0; k < 64; ++k) {
    const double f = std::pow(10000.0, -k / 64.0) * 16;
    expected += 0.5 * (1 + std::cos(f)) - 0.25 * std::sin(f);
  }
  EXPECT_NEAR(model->log_weight(s, t)[0].item<float>(), expected / std::sqrt(128.0), 1e-4);
}

TEST(Model, SeedsFixWeightsByName) {
  const Config spec = mlp_spec(R"({"type": "flow"})");
  auto a = make_model(spec, 3), b = make_model(spec, 3), c = make_model(spec, 4);
  auto pa = a->named_parameters();
  for (auto& item : b->named_parameters())
    EXPECT_TRUE(at::equal(item.value(), pa[item.key()])) << item.key();
  EXPECT_FALSE(at::equal(c->parameters()[0], a->parameters()[0]));
  // A second, equally shaped layer has other numbers.
  EXPECT_FALSE(at::equal(pa["model.layer0.weight"].narrow(1, 0, 2),
                         pa["model.layer1.weight"].narrow(1, 0, 2)));
}

TEST(Model, CopiesAreFrozenAndComplete) {
  const Config spec = Config::from_text(
      R"({"network": {"type": "ncsnpp", "model_channels": 8, "channel_mult": [1],
                      "num_blocks": 1}, "sample_shape": [1, 4, 4]})", "test");
  auto model = make_model(spec, 9);
  auto copy = clone_frozen(*model, spec);
  Context ctx;
  const Dual x(at::ones({2, 1, 4, 4})), t(at::full({2}, 0.3));
  EXPECT_TRUE(at::equal(model->velocity(x, t, {}, ctx).value,
                        copy->velocity(x, t, {}, ctx).value));
  for (const at::Tensor& p : copy->parameters()) EXPECT_FALSE(p.requires_grad());
  {
    const at::NoGradGuard no_grad;
    model->parameters()[0].add_(1);
  }
  EXPECT_FALSE(at::equal(model->parameters()[0], copy->parameters()[0]));
  auto other = make_model(mlp_spec(R"({"type": "flow"})"), 1);
  EXPECT_THROW(copy_weights(*model, *other), Error);
}

TEST(Model, UnknownOptionsAndTypesAreReported) {
  const auto fails = [](const std::string& text) {
    const Config spec = Config::from_text(text, "test");
    EXPECT_THROW({
      make_model(spec, 0);
      spec.check_all_read();
    }, UsageError) << text;
  };
  fails(R"({"network": {"type": "mpl"}, "sample_shape": [2]})");
  fails(R"({"network": {"type": "mlp", "widht": 8}, "sample_shape": [2]})");
  fails(R"({"network": {"type": "mlp", "patch": 2}, "sample_shape": [2]})");
  fails(R"({"network": {"type": "mlp"}, "sample_shape": [2, 3]})");
  fails(R"({"network": {"type": "mlp"}, "sample_shape": [2],
            "preconditioning": {"type": "edm", "two_times": true}})");
  fails(R"({"network": {"type": "ddpmpp", "time_embedding": "s_t"},
            "sample_shape": [1, 8, 8]})");
}

// Another order in memory, the same numbers; with tangents, and gradients of weights.
TEST(Model, ChannelsLastIsTheSameFunction) {
  for (const char* network :
       {R"("type": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
           "attn_resolutions": [4])",
        R"("type": "dit", "hidden_size": 16, "depth": 1, "num_heads": 2)",
        R"("type": "edm2", "model_channels": 64, "channel_mult": [1], "num_blocks": 1,
           "attn_resolutions": [8])"}) {
    const std::string text = R"({"network": {)" + std::string(network) +
                             R"(}, "preconditioning": {"type": "flow", "two_times": true},
                                 "sample_shape": [3, 8, 8]})";
    at::Tensor values[2], tangents[2], gradients[2];
    for (const bool last : {false, true}) {
      auto model = make_model(Config::from_text(text, "test"), 4);
      model->to(at::kDouble);
      {
        const at::NoGradGuard no_grad;
        std::uint64_t k = 0;
        for (at::Tensor& p : model->parameters())
          p.add_(0.1 * Draw(6, k++, 1).normal("w", p.sizes())[0].to(at::kDouble));
      }
      if (last) model->use_channels_last();
      const at::Tensor x = Draw(2, 0, 2).normal("x", {3, 8, 8}).to(at::kDouble);
      const at::Tensor s = at::tensor({0.1, 0.4}, at::kDouble),
                       t = at::tensor({0.6, 0.9}, at::kDouble);
      Context ctx;
      const Dual out = model->average_velocity({x, x.flip(0)}, {s, at::ones_like(s)}, t, {},
                                               ctx);
      EXPECT_EQ(out.value.stride(3), 1) << network;  // as row-major has it
      (out.value * x + out.tangent * x.flip(0)).sum().backward();
      bool reordered = false;
      for (const at::Tensor& p : model->parameters())
        reordered = reordered || (p.dim() == 4 && p.size(2) > 1 &&
                                  p.is_contiguous(at::MemoryFormat::ChannelsLast));
      EXPECT_EQ(reordered, last) << network;
      values[last] = out.value.detach();
      tangents[last] = out.tangent.detach();
      gradients[last] = model->parameters().back().grad();
    }
    EXPECT_TRUE(at::allclose(values[0], values[1], 1e-10, 1e-12)) << network;
    EXPECT_TRUE(at::allclose(tangents[0], tangents[1], 1e-10, 1e-12)) << network;
    EXPECT_TRUE(at::allclose(gradients[0], gradients[1], 1e-10, 1e-12)) << network;
  }
}

// Networks that learned with noise at time 1.
TEST(Model, ReversedTimeMirrorsTheClock) {
  const std::string head = R"({"network": {"type": "mlp", "width": 8, "depth": 2},
    "sample_shape": [2], "preconditioning": {"type": "flow", "time_scale": 1)";
  auto plain = make_model(Config::from_text(head + "}}", "test"), 4);
  auto reversed =
      make_model(Config::from_text(head + R"(, "reverse_time": true}})", "test"), 4);
  const at::Tensor x = at::tensor({.1F, -.4F, 2.F, .3F}).view({2, 2}),
                   t = at::tensor({.2F, .7F});
  Context ctx;
  EXPECT_TRUE(reversed->velocity(x, t, {}, ctx).value.equal(
      -plain->velocity(x, 1 - t, {}, ctx).value));
}

}  // namespace
}  // namespace flowmap
