// What every entry of the network registry owes.
#include <ATen/ATen.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "flowmap/network.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/layers.h"
#include "flowmap/ops.h"
#include "flowmap/precision.h"
#include "tests/flowmap/network_contract.h"
#include "tests/support/network_reference.h"

namespace flowmap {
namespace {

using testing::relative_error;

// What is added to every key changes no difference of scores: gradients are rounding.
bool softmax_is_blind_to(const std::string& name) {
  return name.ends_with(".to_k.bias");
}

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
    const double largest = item.value().grad().abs().max().item<double>();
    if (softmax_is_blind_to(item.key())) {
      EXPECT_LT(largest, 1e-12) << item.key();
    } else {
      EXPECT_GT(largest, 0) << item.key();
    }
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
  Condition guided = in.condition;
  const auto evaluate_guided = [&](at::Tensor scale) {
    guided.guidance = std::move(scale);
    network_->forward(Dual(in.x), Dual(in.time), two ? Dual(in.time2) : Dual(), guided,
                      ctx);
  };
  if (GetParam().shape.guidance) {
    EXPECT_THROW(evaluate_guided(at::ones({3}, at::kDouble)), Error);
    EXPECT_THROW(evaluate_guided(at::ones({}, at::kDouble)), Error);
  } else {
    EXPECT_THROW(evaluate_guided(at::ones({2}, at::kDouble)), UsageError);
  }
}

// Bytes of the CPU memory that this thread took and has not given back.
class HeldMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    held += bytes;
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t held = 0;
};

struct TrainingStep {
  std::vector<at::Tensor> outputs, gradients;
  int64_t kept = 0;  // bytes, between forward and backward
};

enum class Rounding { none, bf16, bf16_and_backward };

// Value, tangent, and gradients of both, dropout on.
template <class Inputs>
TrainingStep training_step(Network& network, const Inputs& in, const Inputs& tangents,
                           bool checkpointing, Rounding rounding) {
  const auto type = network.parameters().front().scalar_type();
  const auto leaf = [&](const at::Tensor& a) {
    return a.to(type).clone().requires_grad_();
  };
  const auto dual = [&](const at::Tensor& a, const at::Tensor& tangent) {
    return a.defined() ? Dual(leaf(a), tangent.to(type)) : Dual();
  };
  const Dual x = dual(in.x, tangents.x), time = dual(in.time, tangents.time),
             time2 = dual(in.time2, tangents.time2);
  std::vector<at::Tensor> wanted = network.parameters();
  wanted.insert(wanted.end(), {x.value, time.value});
  if (time2.defined()) wanted.push_back(time2.value);

  std::optional<AutocastGuard> autocast;
  if (rounding != Rounding::none) autocast.emplace(at::kCPU, at::kBFloat16);
  Dual out;
  TrainingStep step;
  {
    auto memory = std::make_shared<HeldMemory>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, memory);
    const Draw draw(9, 100, x.value.size(0));  // gone before the way back
    Context ctx;
    ctx.train = true;
    ctx.draw = &draw;
    ctx.gradient_checkpointing = checkpointing;
    out = network.forward(x, time, time2, in.condition, ctx);
    step.kept = memory->held;
  }
  step.outputs = {out.value.detach(), out.tangent.detach()};
  if (rounding == Rounding::bf16) autocast.reset();
  const at::Tensor r =
      at::sin(at::arange(out.value.numel(), at::kDouble)).view_as(out.value).to(type);
  const at::Tensor loss =
      (out.value.to(type) * r).sum() + (out.tangent.to(type) * r.flip(0)).sum();
  step.gradients = torch::autograd::grad({loss}, wanted, {}, std::nullopt, false,
                                         /*allow_unused=*/true);
  return step;
}

double relative_distance(const at::Tensor& got, const at::Tensor& expected) {
  const double size = expected.to(at::kDouble).norm().item<double>();
  const double gap = (got.to(at::kDouble) - expected.to(at::kDouble)).norm().item<double>();
  return size > 0 ? gap / size : gap;
}

TEST_P(NetworkContract, CheckpointingChangesNothing) {
  Config options = Config::from_text(GetParam().options, "test");
  options.set_override("dropout=0.3", "test");  // where the network has it
  const auto network = make_network(options, GetParam().shape);
  move_weights(*network);
  Inputs in = inputs(3), tangents{numbers("dx", 3, true), numbers("ds", 3, false), {}, {}};
  if (in.time2.defined()) tangents.time2 = numbers("dt", 3, false) - 2;
  for (const Rounding rounding :
       {Rounding::none, Rounding::bf16, Rounding::bf16_and_backward}) {
    SCOPED_TRACE("rounding " + std::to_string(static_cast<int>(rounding)));
    if (rounding != Rounding::none) network->to(at::kFloat);
    const TrainingStep plain = training_step(*network, in, tangents, false, rounding);
    const TrainingStep again = training_step(*network, in, tangents, true, rounding);
    for (std::size_t i = 0; i < 2; ++i)
      EXPECT_TRUE(at::equal(again.outputs[i], plain.outputs[i]));
    // Up to the order in which a map's gradients are added. In bfloat16 single gradients
    // that nearly cancel say little; all together do.
    const auto names = network->named_parameters().keys();
    std::vector<at::Tensor> all, all_again;
    for (std::size_t i = 0; i < plain.gradients.size(); ++i) {
      const std::string name = i < names.size() ? names[i] : "input";
      ASSERT_TRUE(plain.gradients[i].defined()) << name;
      ASSERT_TRUE(again.gradients[i].defined()) << name;
      all.push_back(plain.gradients[i].flatten());
      all_again.push_back(again.gradients[i].flatten());
      if (softmax_is_blind_to(name)) continue;
      if (rounding == Rounding::none) {
        EXPECT_LT(relative_distance(all_again[i], all[i]), 1e-12) << name;
      } else {
        EXPECT_LT(relative_distance(all_again[i], all[i]), 0.2) << name;
      }
    }
    EXPECT_LT(relative_distance(at::cat(all_again), at::cat(all)), 0.03);
    // A perceptron has no blocks.
    if (options.string("type") != "mlp") {
      EXPECT_LT(static_cast<double>(again.kept), 0.7 * static_cast<double>(plain.kept));
    }
    RecordProperty(rounding == Rounding::none ? "kept" : "kept_bf16",
                   std::to_string(again.kept) + " of " + std::to_string(plain.kept));
  }
}

// bfloat16 has 8 bits: a product's factors are off by 2^-9 each at most. Behind some
// dozen layers that is at most 5 % of the output's norm, and 8 % of its tangent's.
TEST_P(NetworkContract, Bf16IsCloseToFloat32) {
  network_->to(at::kFloat);
  Inputs in = inputs(3);
  const auto evaluate_as = [&](bool reduced) {
    std::optional<AutocastGuard> autocast;
    if (reduced) autocast.emplace(at::kCPU, at::kBFloat16);
    const at::NoGradGuard no_grad;
    Context ctx;
    const auto number = [](const at::Tensor& a) { return a.to(at::kFloat); };
    const Dual time2 = in.time2.defined()
                           ? Dual(number(in.time2), at::ones({3}))
                           : Dual();
    Condition c = in.condition;
    if (c.class_labels.defined()) c.class_labels = number(c.class_labels);
    return network_->forward({number(in.x), number(numbers("dx", 3, true))},
                             {number(in.time), at::ones({3})}, time2, c, ctx);
  };
  const Dual plain = evaluate_as(false), reduced = evaluate_as(true);
  EXPECT_LT(relative_distance(reduced.value, plain.value), 0.05);
  EXPECT_LT(relative_distance(reduced.tangent, plain.tangent), 0.08);
  EXPECT_GT(relative_distance(reduced.value, plain.value), 1e-4);  // it was on
}

// Weights of the one-time network of the same options, found by name, make a flow map
// whose velocity v_{t,t} is the one-time network's. What is left are the layers of the
// gap, which start at zero: every gap does then.
TEST_P(NetworkContract, DiagonalStartsAsTheOneTimeNetwork) {
  const Config options = Config::from_text(GetParam().options, "test");
  if (GetParam().shape.times == 1 || options.string("type") == "mlp") return;
  // As published, whose one-time network is another.
  if (options.string("time_embedding", "") == "flow_maps") return;
  if (options.string("time_embedding", "s_gap") == "flow_maps") return;  // no such promise
  NetworkShape shape = GetParam().shape;
  shape.times = 1;
  const auto one = make_network(options, shape);
  move_weights(*one);
  const auto two = make_network(options, GetParam().shape);
  two->to(at::kDouble);
  {
    const at::NoGradGuard no_grad;
    auto targets = two->named_parameters();
    for (const auto& item : one->named_parameters()) {
      ASSERT_TRUE(targets.contains(item.key())) << item.key();
      ASSERT_EQ(targets[item.key()].sizes(), item.value().sizes()) << item.key();
      targets[item.key()].copy_(item.value());
    }
  }
  const bool gap = two->second_time_is_gap();
  EXPECT_EQ(gap, options.string("time_embedding", "s_gap") == "s_gap");
  const Inputs in = inputs(3);
  Context ctx;
  const auto map = [&](const at::Tensor& time2) {
    return two->forward(Dual(in.x), Dual(in.time), Dual(time2), in.condition, ctx).value;
  };
  const at::Tensor expected =
      one->forward(Dual(in.x), Dual(in.time), {}, in.condition, ctx).value;
  EXPECT_GT(expected.abs().max().item<double>(), 0);
  EXPECT_LT(relative_error(map(gap ? at::zeros_like(in.time) : in.time), expected), 1e-14);
  if (gap) {
    EXPECT_LT(relative_error(map(in.time2), expected), 1e-14);
  } else {
    EXPECT_GT(relative_error(map(in.time2), expected), 1e-6);
  }
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

// With normalised queries and keys their size says nothing: tenfold rows of qkv leave the
// image as it was; without, they do not.
TEST(QkNorm, TheSizeOfQueriesAndKeysDoesNotMatter) {
  const auto change = [](bool qk_norm) {
    const Config options = Config::from_text(
        std::string(R"({"type": "ddpmpp", "model_channels": 16, "channel_mult": [1],
            "num_blocks": 1, "attn_resolutions": [8], "qk_norm": )") +
            (qk_norm ? "true}" : "false}"), "test");
    const auto network = make_network(options, {{1, 8, 8}, 0, 1, 0});
    const at::NoGradGuard no_grad;
    for (auto& item : network->named_parameters())
      item.value().copy_(draw_init(3, item.key(), item.value().sizes(), 16, 16,
                                   InitMode::kaiming_normal));
    const at::Tensor x = at::sin(at::arange(128, at::kFloat)).view({2, 1, 8, 8});
    const auto run = [&] {
      Context ctx;
      return network->forward(Dual(x), Dual(at::ones({2})), {}, {}, ctx).value;
    };
    const at::Tensor before = run();
    // Channels interleave as 3c + {q, k, v}.
    const at::Tensor is_value = at::arange(48).remainder(3).eq(2);
    const at::Tensor factor = at::where(is_value, 1.0, 10.0).to(at::kFloat);
    for (auto& item : network->named_parameters()) {
      if (item.key().find("qkv.") == std::string::npos) continue;
      item.value().mul_(item.value().dim() == 1 ? factor : factor.view({48, 1, 1, 1}));
    }
    return ((run() - before).norm() / before.norm()).item<double>();
  };
  EXPECT_LT(change(true), 1e-3);
  EXPECT_GT(change(false), 1e-2);
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
