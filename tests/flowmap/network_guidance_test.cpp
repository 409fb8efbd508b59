// The guidance scale as an input of a network, and guidance outside of it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/model.h"
#include "flowmap/network.h"
#include "flowmap/nn/guidance.h"
#include "flowmap/nn/guidance_embedding.h"
#include "flowmap/nn/init.h"
#include "flowmap/train/snapshot.h"
#include "tests/flowmap/network_contract.h"
#include "tests/support/network_reference.h"

namespace flowmap {
namespace {

using testing::relative_error;

class NetworkGuidance : public NetworkContract {};

// A guidance scale adds a matrix of its own (magnitude-preserving: and a gain), which
// counts for nothing until it is trained. The other weights are those of the network
// without, by name and number.
TEST_P(NetworkGuidance, GuidanceScaleStartsUnused) {
  const Config options = Config::from_text(GetParam().options, "test");
  NetworkShape shape = GetParam().shape;
  shape.guidance = false;
  const auto plain = make_network(options, shape);
  const auto guided = make_network(options, GetParam().shape);
  std::vector<std::string> added;
  const auto plain_parameters = plain->named_parameters();
  const auto guided_parameters = guided->named_parameters();
  for (const auto& item : guided_parameters) {
    const at::Tensor* same = plain_parameters.find(item.key());
    if (same) {
      EXPECT_TRUE(at::equal(item.value(), *same)) << item.key();
    } else {
      added.push_back(item.key());
    }
  }
  const bool magnitude_preserving = options.string("type") == "edm2";
  ASSERT_EQ(added.size(), magnitude_preserving ? 2u : 1u);
  EXPECT_EQ(guided->parameters().size(), plain->parameters().size() + added.size());
  double weights = 0;
  for (const std::string& name : added) {
    const at::Tensor p = guided_parameters[name];
    if (p.dim() == 2) weights += static_cast<double>(p.numel());
    if (p.dim() == 0 || !magnitude_preserving) {
      EXPECT_EQ(p.abs().max().item<float>(), 0) << name;
    }
  }
  EXPECT_GT(weights, 0);
  EXPECT_EQ(guided->multiply_adds(), plain->multiply_adds() + weights);

  // Every other weight away from its start.
  move_weights(*plain);
  guided->to(at::kDouble);
  {
    const at::NoGradGuard no_grad;
    auto targets = guided->named_parameters();
    for (const auto& item : plain->named_parameters())
      targets[item.key()].copy_(item.value());
  }
  Inputs in = inputs(3);
  const auto evaluate_under = [&](Network& network, at::Tensor scale) {
    Context ctx;
    in.condition.guidance = std::move(scale);
    return network.forward(Dual(in.x), Dual(in.time),
                           in.time2.defined() ? Dual(in.time2) : Dual(), in.condition,
                           ctx).value;
  };
  const at::Tensor expected = evaluate_under(*plain, {});
  const at::Tensor scales = at::tensor({0.0, 4.0, 10.0}, at::kDouble);
  EXPECT_TRUE(at::equal(evaluate_under(*guided, scales), expected));
  EXPECT_TRUE(at::equal(evaluate_under(*guided, {}), expected));
  // A first step reaches what is new; behind it the scale matters, and 1 never does.
  for (at::Tensor& p : guided->parameters()) p.mutable_grad() = at::Tensor();
  const at::Tensor out = evaluate_under(*guided, scales);
  (out * at::sin(at::arange(out.numel(), at::kDouble)).view_as(out)).sum().backward();
  double moved = 0;
  for (const std::string& name : added) {
    at::Tensor p = guided->named_parameters()[name];
    ASSERT_TRUE(p.grad().defined()) << name;
    moved += p.grad().abs().max().item<double>();
    const at::NoGradGuard no_grad;
    p.add_(p.grad().sign(), 0.1);
  }
  EXPECT_GT(moved, 0);
  EXPECT_TRUE(at::equal(evaluate_under(*guided, {}), expected));
  EXPECT_TRUE(at::equal(evaluate_under(*guided, at::ones({3}, at::kDouble)), expected));
  const at::Tensor under = evaluate_under(*guided, scales);
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_GT(relative_error(under[i], expected[i]), 1e-4) << i;
}

// A file of the network without a guidance scale, of one time where the two-time network
// has all of its weights, fits the one with: the same velocity under every scale.
TEST_P(NetworkGuidance, GuidedModelTakesWeightsWithoutGuidance) {
  const NetworkShape& shape = GetParam().shape;
  if (shape.out_channels) return;  // a velocity's are the sample's
  const Config network = Config::from_text(GetParam().options, "test");
  const auto spec = [&](bool two_times, bool guidance) {
    Config c;
    c.set_json("network", GetParam().options, "test");
    c.set_json("preconditioning",
               std::string(R"({"type": "flow", "two_times": )") +
                   (two_times ? "true" : "false") + R"(, "guidance_input": )" +
                   (guidance ? "true" : "false") + "}", "test");
    std::string sample;
    for (const int64_t n : shape.sample)
      sample += (sample.empty() ? "" : ", ") + std::to_string(n);
    c.set_json("sample_shape", "[" + sample + "]", "test");
    c.set_json("label_dim", std::to_string(shape.label_dim), "test");
    return c;
  };
  const bool own_one_time = network.string("type") == "mlp" ||
                            network.string("time_embedding", "") == "flow_maps";
  const bool two = shape.times == 2;
  const Config source_spec = spec(two && own_one_time, false);
  const auto source = make_model(source_spec, 3);
  {
    const at::NoGradGuard no_grad;
    for (auto& item : source->named_parameters())
      item.value().add_(draw_init(17, item.key(), item.value().sizes(), 1, 1,
                                  InitMode::kaiming_normal) * 0.1);
  }
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() /
      ("flowmap_guidance_" + std::to_string(getpid()) + ".safetensors");
  save_snapshot(path, *source, source_spec.resolved_json(),
                {{"images_seen", "0"}, {"ema", "raw"}, {"method", "{}"}});
  const auto guided = make_model(spec(two, true), 4);
  EXPECT_TRUE(guided->info().guidance_input);
  const auto state_size = source->parameters().size() + source->buffers().size();
  EXPECT_EQ(load_weights(path, *guided, /*partial=*/true),
            static_cast<int64_t>(state_size));
  std::filesystem::remove(path);

  Inputs in = inputs(3);
  Context ctx;
  const at::Tensor x = in.x.to(at::kFloat), t = in.time.to(at::kFloat);
  const at::Tensor under = guided->velocity(Dual(x), Dual(t), in.condition, ctx).value;
  EXPECT_THROW(source->velocity(Dual(x), Dual(t), in.condition, ctx), UsageError);
  in.condition.guidance = at::Tensor();
  const at::Tensor expected = source->velocity(Dual(x), Dual(t), in.condition, ctx).value;
  EXPECT_GT(expected.abs().max().item<float>(), 0);
  EXPECT_LT(relative_error(under, expected), 1e-6);
}

std::vector<ContractCase> guided_cases() {
  std::vector<ContractCase> cases;
  for (ContractCase& c : contract_cases())
    if (c.shape.guidance) cases.push_back(std::move(c));
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Registry, NetworkGuidance, ::testing::ValuesIn(guided_cases()),
                         [](const auto& one) { return one.param.name; });

TEST(Guidance, FeaturesTellScalesApart) {
  Condition c;
  const at::Tensor like = at::zeros({}, at::kDouble);
  EXPECT_EQ(guidance_features(c, 2, like).abs().max().item<double>(), 0);
  c.guidance = at::linspace(0, 10, 101, at::kFloat);
  const at::Tensor e = guidance_features(c, 101, like);
  EXPECT_EQ(e.sizes(), at::IntArrayRef({101, kGuidanceFeatures}));
  EXPECT_EQ(e.scalar_type(), at::kDouble);
  EXPECT_EQ(e[10].abs().max().item<double>(), 0);  // a = 1
  EXPECT_NEAR(e[30][0].item<double>(), std::cos(2.0) - 1, 1e-6);
  EXPECT_NEAR(e[30][16].item<double>(), std::sin(2.0), 1e-6);
  const double slowest = std::pow(32, -15.0 / 16);
  EXPECT_NEAR(e[100][15].item<double>(), std::cos(9 * slowest) - 1, 1e-6);
  EXPECT_NEAR(e[100][31].item<double>(), std::sin(9 * slowest), 1e-6);
  // No two scales look alike, and near ones are near.
  const at::Tensor gaps = (e.unsqueeze(0) - e.unsqueeze(1)).norm(2, 2);
  const at::Tensor apart = (at::arange(101).unsqueeze(0) - at::arange(101).unsqueeze(1))
                               .abs().ge(5);
  EXPECT_GT(gaps.masked_select(apart).min().item<double>(), 0.5);
  EXPECT_LT(gaps.diagonal(1).max().item<double>(), 0.3);
}

TEST(Guidance, ScaleOfEachSample) {
  const at::Tensor a = at::sin(at::arange(48, at::kDouble)).view({3, 4, 2, 2});
  const Dual c(a, a.flip(0)), u(a.flip(1), a.flip(2));
  const at::Tensor scales = at::tensor({0.0, 1.0, 3.5}, at::kFloat);
  for (const int64_t channels : {0, 3}) {
    const Dual each = classifier_free_guidance(c, u, scales, channels);
    for (int64_t i = 0; i < 3; ++i) {
      const Dual all =
          classifier_free_guidance(c, u, scales[i].item<double>(), channels);
      EXPECT_TRUE(at::equal(each.value[i], all.value[i])) << i;
      EXPECT_TRUE(at::equal(each.tangent[i], all.tangent[i])) << i;
    }
  }
  EXPECT_THROW(classifier_free_guidance(c, u, at::ones({2})), Error);
}

TEST(Guidance, ClassifiersTakeNoScale) {
  const Config options = Config::from_text(R"({"type": "classifier_cnn"})", "test");
  NetworkShape shape{{1, 8, 8}, 3, 1, 0};
  const auto network = make_network(options, shape);
  Condition c;
  c.guidance = at::ones({2});
  Context ctx;
  const Dual x(at::ones({2, 1, 8, 8}));
  EXPECT_THROW(network->forward(x, {}, {}, c, ctx), UsageError);
  shape.guidance = true;
  EXPECT_THROW(make_network(options, shape), UsageError);
}

}  // namespace
}  // namespace flowmap
