// What every entry of the network registry owes.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "flowmap/model.h"
#include "flowmap/network.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/layers.h"
#include "flowmap/ops.h"
#include "tests/flowmap/network_reference.h"

namespace flowmap {
namespace {

using testing::relative_error;

struct ContractCase {
  std::string name;     // of the test
  std::string options;  // of the network, JSON
  NetworkShape shape;
};

std::vector<ContractCase> contract_cases() {
  const std::string small =
      R"("model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
         "attn_resolutions": [4])";
  const std::vector<int64_t> image = {2, 8, 8};
  std::vector<ContractCase> cases;
  for (const char* type : {"ddpmpp", "ncsnpp"}) {
    const std::string head = R"({"type": ")" + std::string(type) + "\", " + small;
    cases.push_back({std::string(type) + "_one", head + "}", {image, 0, 1, 0}});
    cases.push_back({std::string(type) + "_gap", head + "}", {image, 3, 2, 0}});
    cases.push_back({std::string(type) + "_s_t",
                     head + R"(, "time_embedding": "s_t"})", {image, 0, 2, 0}});
    cases.push_back({std::string(type) + "_patch_out",
                     head + R"(, "patch": 2, "adaptive_scale": true, "num_heads": 2})",
                     {image, 0, 1, 3}});
  }
  cases.push_back({"mlp_one", R"({"type": "mlp", "width": 16})", {{2}, 0, 1, 0}});
  cases.push_back({"mlp_two", R"({"type": "mlp", "width": 16})", {{2}, 4, 2, 0}});
  return cases;
}

class NetworkContract : public ::testing::TestWithParam<ContractCase> {
 protected:
  // Weights away from zero everywhere: layers that start at zero prove nothing.
  void SetUp() override {
    const Config options = Config::from_text(GetParam().options, "test");
    network_ = make_network(options, GetParam().shape);
    options.check_all_read();
    network_->to(at::kDouble);
    network_->eval();
    const at::NoGradGuard no_grad;
    for (auto& item : network_->named_parameters())
      item.value().add_(draw_init(17, item.key(), item.value().sizes(), 1, 1,
                                  InitMode::kaiming_normal).to(at::kDouble) * 0.1);
  }

  static at::Tensor numbers(const std::string& name, int64_t batch, bool sample) {
    std::vector<int64_t> size = {batch};
    if (sample)
      size.insert(size.end(), GetParam().shape.sample.begin(),
                  GetParam().shape.sample.end());
    const at::Tensor normal =
        draw_init(23, name, size, 1, 1, InitMode::kaiming_normal).to(at::kDouble);
    return sample ? normal : normal.sigmoid();
  }
  struct Inputs {
    at::Tensor x, time, time2;
    Condition condition;
  };
  static Inputs inputs(int64_t batch) {
    Inputs in{numbers("x", batch, true), numbers("time", batch, false), {}, {}};
    if (GetParam().shape.times == 2) in.time2 = numbers("time2", batch, false);
    if (const int64_t labels = GetParam().shape.label_dim)
      in.condition.class_labels =
          at::eye(labels, at::kDouble).index_select(0, at::arange(batch) % labels);
    return in;
  }
  at::Tensor evaluate(const Inputs& in) {
    Context ctx;
    const Dual second = in.time2.defined() ? Dual(in.time2) : Dual();
    return network_->forward(Dual(in.x), Dual(in.time), second, in.condition, ctx).value;
  }

  std::shared_ptr<Network> network_;
};

TEST_P(NetworkContract, RowsDoNotDependOnTheirBatch) {
  const Inputs in = inputs(5);
  const at::Tensor out = evaluate(in);
  std::vector<int64_t> size = {5};
  size.insert(size.end(), GetParam().shape.sample.begin(), GetParam().shape.sample.end());
  if (GetParam().shape.out_channels) size[1] = GetParam().shape.out_channels;
  EXPECT_EQ(out.sizes(), at::IntArrayRef(size));
  EXPECT_TRUE(at::equal(out, evaluate(in)));
  for (const int64_t row : {0, 4}) {
    Inputs one{in.x.narrow(0, row, 1), in.time.narrow(0, row, 1), {},
               in.condition.select(at::tensor({row}))};
    if (in.time2.defined()) one.time2 = in.time2.narrow(0, row, 1);
    EXPECT_LT(relative_error(evaluate(one), out.narrow(0, row, 1)), 1e-12);
  }
}

TEST_P(NetworkContract, EveryInputAndWeightMatters) {
  Inputs in = inputs(3);
  in.x.requires_grad_();
  in.time.requires_grad_();
  if (in.time2.defined()) in.time2.requires_grad_();
  const at::Tensor out = evaluate(in);
  (out * at::sin(at::arange(out.numel(), at::kDouble)).view_as(out)).sum().backward();
  EXPECT_GT(in.x.grad().abs().min().item<double>(), 0);
  EXPECT_GT(in.time.grad().abs().min().item<double>(), 0);
  if (in.time2.defined()) {
    EXPECT_GT(in.time2.grad().abs().min().item<double>(), 0);
  }
  for (const auto& item : network_->named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_GT(item.value().grad().abs().max().item<double>(), 0) << item.key();
  }
}

TEST_P(NetworkContract, TangentsAreDirectionalDerivatives) {
  const Inputs in = inputs(3);
  const bool two = in.time2.defined();
  const at::Tensor dx = numbers("dx", 3, true), ds = numbers("ds", 3, false),
                   dt = numbers("dt", 3, false) - 2;
  Context ctx;
  const Dual plain = network_->forward(Dual(in.x), Dual(in.time),
                                       two ? Dual(in.time2) : Dual(), in.condition, ctx);
  EXPECT_FALSE(plain.has_tangent());
  const Dual zero = network_->forward(
      {in.x, at::zeros_like(in.x)}, {in.time, at::zeros_like(in.time)},
      two ? Dual(in.time2, at::zeros_like(in.time2)) : Dual(), in.condition, ctx);
  EXPECT_LT(relative_error(zero.value, plain.value), 1e-13);
  EXPECT_EQ(ops::tangent_or_zeros(zero).abs().max().item<double>(), 0);
  const Dual moved = network_->forward({in.x, dx}, {in.time, ds},
                                       two ? Dual(in.time2, dt) : Dual(), in.condition,
                                       ctx);
  EXPECT_LT(relative_error(moved.value, plain.value), 1e-13);
  const auto at_step = [&](double h) {
    Inputs shifted{in.x + h * dx, in.time + h * ds, {}, in.condition};
    if (two) shifted.time2 = in.time2 + h * dt;
    return evaluate(shifted);
  };
  const double h = 2e-5;  // fourth order; Fourier features turn fast
  const at::Tensor difference =
      (8 * (at_step(h) - at_step(-h)) - (at_step(2 * h) - at_step(-2 * h))) / (12 * h);
  EXPECT_LT(relative_error(moved.tangent, difference), 1e-6);
}

TEST_P(NetworkContract, TapsChangeNothingAndAreNamed) {
  const Inputs in = inputs(2);
  std::map<std::string, at::Tensor> taps;
  Context ctx;
  ctx.taps = &taps;
  const Dual out = network_->forward(Dual(in.x), Dual(in.time),
                                     in.time2.defined() ? Dual(in.time2) : Dual(),
                                     in.condition, ctx);
  EXPECT_TRUE(at::equal(out.value, evaluate(in)));
  EXPECT_GT(taps.size(), 2u);
  for (const auto& [name, map] : taps) EXPECT_EQ(map.size(0), 2) << name;
}

TEST_P(NetworkContract, WrongInputsAreNamed) {
  const Inputs in = inputs(2);
  Context ctx;
  const bool two = in.time2.defined();
  EXPECT_THROW(network_->forward(Dual(in.x), Dual(in.time),
                                 two ? Dual() : Dual(in.time), in.condition, ctx), Error);
  EXPECT_THROW(network_->forward(Dual(in.x.unsqueeze(1)), Dual(in.time),
                                 two ? Dual(in.time2) : Dual(), in.condition, ctx), Error);
  EXPECT_GT(network_->multiply_adds(), 0);
}

INSTANTIATE_TEST_SUITE_P(Registry, NetworkContract, ::testing::ValuesIn(contract_cases()),
                         [](const auto& one) { return one.param.name; });

TEST(NetworkRegistry, ContractCoversEveryImageAndPointNetwork) {
  std::set<std::string> covered;
  for (const ContractCase& c : contract_cases())
    covered.insert(Config::from_text(c.options, "test").string("type"));
  for (const NetworkEntry& entry : network_registry()) {
    if (std::string(entry.name).starts_with("classifier")) continue;  // takes no time
    EXPECT_TRUE(covered.count(entry.name)) << entry.name << " has no contract test";
  }
}

// On the diagonal, two-time networks are the one-time network of the same weights: s_t
// always, s_gap as long as map2_layer1 is zero, that is at the start, for every gap.
TEST(TwoTimes, StartAsTheOneTimeNetwork) {
  const std::string head =
      R"({"type": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1)";
  const std::vector<int64_t> image = {1, 8, 8};
  const auto one = make_network(Config::from_text(head + "}", "test"), {image, 0, 1, 0});
  for (const char* form : {"s_gap", "s_t"}) {
    const bool gap = std::string(form) == "s_gap";
    const Config options = Config::from_text(
        head + R"(, "time_embedding": ")" + form + "\"}", "test");
    const auto two = make_network(options, {image, 0, 2, 0});
    EXPECT_EQ(two->second_time_is_gap(), gap);
    EXPECT_EQ(two->parameters().size(), one->parameters().size() + (gap ? 4u : 0u));
    auto weights = one->named_parameters();
    for (auto& item : two->named_parameters()) {
      if (const at::Tensor* w = weights.find(item.key())) {
        EXPECT_TRUE(at::equal(item.value(), *w)) << item.key();
      }
    }
    const at::Tensor x = at::sin(at::arange(192, at::kFloat)).view({3, 1, 8, 8});
    const at::Tensor s = at::tensor({0.0f, 5.0f, 16.0f});
    const at::Tensor second = gap ? at::tensor({9.0f, 0.0f, 4.0f}) : s;
    Context ctx;
    const at::Tensor expected = one->forward(Dual(x), Dual(s), {}, {}, ctx).value;
    EXPECT_TRUE(at::equal(two->forward(Dual(x), Dual(s), Dual(second), {}, ctx).value,
                          expected)) << form;
    EXPECT_GT(expected.abs().max().item<float>(), 0);
  }
}

TEST(Dropout, MasksFollowTheContext) {
  const Config options = Config::from_text(
      R"({"type": "ddpmpp", "model_channels": 8, "channel_mult": [1, 1], "num_blocks": 1,
          "dropout": 0.4, "label_dropout": 0.5})", "test");
  const auto network = make_network(options, {{1, 8, 8}, 3, 1, 0});
  {
    const at::NoGradGuard no_grad;
    for (auto& item : network->named_parameters())
      item.value().add_(draw_init(17, item.key(), item.value().sizes(), 1, 1,
                                  InitMode::kaiming_normal) * 0.1);
  }
  const at::Tensor x = at::sin(at::arange(256, at::kFloat)).view({4, 1, 8, 8});
  const at::Tensor t = at::full({4}, 3.0f);
  Condition c;
  c.class_labels = at::eye(3).index_select(0, at::tensor({0, 1, 2, 0}));
  const auto run = [&](bool train, const Draw* draw) {
    Context ctx;
    ctx.train = train;
    ctx.draw = draw;
    return network->forward(Dual(x), Dual(t), {}, c, ctx).value;
  };
  const Draw first(1, 0, 4), same(1, 0, 4), later(1, 4, 4), few(1, 0, 3);
  const at::Tensor plain = run(false, nullptr), dropped = run(true, &first);
  EXPECT_TRUE(at::equal(run(false, &first), plain));
  EXPECT_TRUE(at::equal(run(true, nullptr), plain));
  EXPECT_FALSE(at::allclose(dropped, plain));
  EXPECT_TRUE(at::equal(run(true, &same), dropped));
  EXPECT_FALSE(at::allclose(run(true, &later), dropped));
  EXPECT_THROW(run(true, &few), Error);
  // Value and tangent see one mask, and the mask keeps the mean.
  Context ctx;
  ctx.train = true;
  ctx.draw = &first;
  const at::Tensor ones = at::ones({4, 3, 50, 50});
  const Dual d = dropout({ones, ones}, 0.4, "layer", ctx);
  EXPECT_TRUE(at::equal(d.value, d.tangent));
  EXPECT_NEAR(d.value.mean().item<float>(), 1, 0.02);
  EXPECT_NEAR(d.value.eq(0).to(at::kFloat).mean().item<float>(), 0.4, 0.02);
  EXPECT_NEAR(d.value.max().item<float>(), 1 / 0.6, 1e-6);
  EXPECT_FALSE(at::equal(d.value, dropout({ones}, 0.4, "other", ctx).value));
}

// EDM's rules: uniform (xavier), qkv at sqrt(0.2), the last convolutions at 1e-5.
TEST(Initialisation, FollowsEdmsRules) {
  const Config options = Config::from_text(
      R"({"type": "ddpmpp", "model_channels": 64, "channel_mult": [1], "num_blocks": 1})",
      "test");
  const auto network = make_network(options, {{3, 16, 16}, 0, 1, 0});
  auto p = network->named_parameters();
  const auto bound = [&](const char* name, double fan_in, double fan_out, double factor) {
    const double top = factor * std::sqrt(6 / (fan_in + fan_out));
    const at::Tensor w = p[name];
    EXPECT_LE(w.abs().max().item<double>(), top * (1 + 1e-6)) << name;
    EXPECT_GT(w.abs().max().item<double>(), top * 0.99) << name;
    EXPECT_NEAR(w.std().item<double>(), top / std::sqrt(3), 0.03 * top) << name;
  };
  bound("enc.16x16_block0.conv0.weight", 64 * 9, 64 * 9, 1);
  bound("enc.16x16_block0.conv1.weight", 64 * 9, 64 * 9, 1e-5);
  bound("enc.16x16_block0.qkv.weight", 64, 192, std::sqrt(0.2));
  bound("enc.16x16_block0.proj.weight", 64, 64, 1e-5);
  bound("dec.16x16_aux_conv.weight", 64 * 9, 3 * 9, 1e-5);
  bound("map_layer0.weight", 64, 256, 1);
  EXPECT_EQ(p["map_layer0.bias"].abs().max().item<float>(), 0);
  EXPECT_TRUE(at::equal(p["enc.16x16_block0.norm0.weight"], at::ones({64})));
}

}  // namespace
}  // namespace flowmap
