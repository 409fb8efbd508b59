// DiT and SiT against numbers made by their own programs, the parameter counts of their
// published configurations, and what is ours: two times, soft labels, guidance.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/model.h"
#include "flowmap/network.h"
#include "flowmap/nn/dit_layers.h"
#include "flowmap/nn/guidance.h"
#include "flowmap/nn/init.h"
#include "flowmap/ops.h"
#include "tests/support/network_reference.h"

namespace flowmap {
namespace {

using testing::NetworkReference;
using testing::relative_error;

constexpr double kDoubleBound = 1e-10;

struct DitCase {
  const char* file;
  double float_bound;  // ten times the peer's own rounding (README), at least 1e-5
};

// The network that a file's constructor arguments mean.
struct DitSpec {
  Config options;
  NetworkShape shape;
};

DitSpec dit_spec(const NetworkReference& reference) {
  const Config given = Config::from_text(reference.config, "config");
  const Config kwargs = given.child("kwargs");
  DitSpec spec;
  spec.options.set_json("type", given.string("class").ends_with("DiT") ? R"("dit")"
                                                                       : R"("sit")",
                        "test");
  const int64_t size = kwargs.integer("input_size");
  spec.shape.sample = {kwargs.integer("in_channels"), size, size};
  spec.shape.label_dim = kwargs.integer("num_classes");
  for (const std::string& key : kwargs.keys())
    if (key != "input_size" && key != "in_channels" && key != "num_classes")
      spec.options.set_json(key, kwargs.raw(key), "test");
  return spec;
}

// One-hot rows; the peer's null class (index num_classes) is our zero row.
at::Tensor label_rows(const at::Tensor& y, int64_t classes) {
  return at::cat({at::eye(classes), at::zeros({1, classes})}).index_select(0, y);
}

class DitReference : public ::testing::TestWithParam<DitCase> {
 protected:
  void SetUp() override {
    FM_NEED_FILE(testing::network_file(GetParam().file));
    reference_ = std::make_unique<NetworkReference>(GetParam().file);
    DitSpec spec = dit_spec(*reference_);
    classes_ = spec.shape.label_dim;
    network_ = make_network(spec.options, spec.shape);
    spec.options.check_all_read();
    const at::Tensor positions = network_->named_buffers()["pos_embed"].clone();
    for (const char* root : {"pos_embed", "x_embedder.", "t_embedder.", "y_embedder.",
                             "blocks.", "final_layer."})
      testing::load_weights(*network_, *reference_, "", root);
    EXPECT_LT(relative_error(positions, reference_->at("pos_embed")), 1e-6);
    network_->eval();
  }
  Condition condition(const char* labels) const {
    Condition c;
    c.class_labels = label_rows(reference_->at(labels), classes_);
    return c;
  }
  at::Tensor input(const char* name, at::ScalarType type) const {
    return reference_->at(name).to(type).clone();
  }
  Dual with_tangents(const at::Tensor& x, const at::Tensor& t, at::ScalarType type,
                     bool checkpointing) const {
    Context ctx;
    ctx.gradient_checkpointing = checkpointing;
    return network_->forward(Dual(x, input("tangent.x", type)),
                             Dual(t, input("tangent.t", type)), {}, condition("input.y"),
                             ctx);
  }
  double bound(at::ScalarType type) const {
    return type == at::kDouble ? kDoubleBound : GetParam().float_bound;
  }

  std::unique_ptr<NetworkReference> reference_;
  std::shared_ptr<Network> network_;
  int64_t classes_ = 0;
};

TEST_P(DitReference, OutputsAgree) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    network_->to(type);
    std::map<std::string, at::Tensor> taps;
    Context ctx;
    ctx.taps = &taps;
    const Dual out = network_->forward(Dual(reference_->at("input.x").to(type)),
                                       Dual(reference_->at("input.t").to(type)), {},
                                       condition("input.y"), ctx);
    const char* name = type == at::kDouble ? "output_f64" : "output";
    EXPECT_LT(relative_error(out.value, reference_->at(name)), bound(type));
    EXPECT_LT(relative_error(taps.at("emb"), reference_->at("mid.c")), 1e-4);
    EXPECT_LT(relative_error(taps.at("block0"), reference_->at("mid.block0")), 1e-4);
  }
}

class DitFullReference : public DitReference {};  // files with guidance, derivatives

// The peer's forward_with_cfg guides three channels of both halves of its batch; the rest
// stays each half's own.
TEST_P(DitFullReference, GuidanceAgrees) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    network_->to(type);
    const at::Tensor x = reference_->at("input.x_cfg").to(type).narrow(0, 0, 2);
    const at::Tensor t = reference_->at("input.t_cfg").to(type).narrow(0, 0, 2);
    const Condition c = condition("input.y_cfg").select(at::tensor({0, 1}));
    Context ctx;
    const at::Tensor guided =
        guided_forward(*network_, Dual(x), Dual(t), {}, c, 2.5, 3, ctx).value;
    const at::Tensor none = network_->forward(Dual(x), Dual(t), {}, {}, ctx).value;
    const int64_t rest = none.size(1) - 3;
    const at::Tensor second =
        at::cat({guided.narrow(1, 0, 3), none.narrow(1, 3, rest)}, 1);
    const char* name = type == at::kDouble ? "output_f64.cfg" : "output.cfg";
    EXPECT_LT(relative_error(at::cat({guided, second}), reference_->at(name)),
              bound(type));
  }
}

TEST_P(DitFullReference, DerivativesAgree) {
  for (const bool checkpointing : {false, true}) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      network_->to(type);
      const std::string suffix = type == at::kDouble ? "_f64" : "";
      const at::Tensor x = input("input.x", type).requires_grad_();
      const at::Tensor t = input("input.t", type).requires_grad_();
      const Dual out = with_tangents(x, t, type, checkpointing);
      EXPECT_LT(relative_error(out.tangent, reference_->at("jvp" + suffix)), bound(type));
      (out.value * input("cotangent", type)).sum().backward();
      EXPECT_LT(relative_error(x.grad(), reference_->at("grad" + suffix + ".x")),
                bound(type));
      EXPECT_LT(relative_error(t.grad(), reference_->at("grad" + suffix + ".t")),
                bound(type));
      int checked = 0;
      for (auto& item : network_->named_parameters()) {
        const std::string key = "grad" + suffix + "." + item.key();
        if (!reference_->has(key)) continue;
        EXPECT_LT(relative_error(item.value().grad(), reference_->at(key)), bound(type))
            << key;
        ++checked;
      }
      EXPECT_EQ(checked, 4);
      network_->zero_grad();
    }
  }
}

// Reverse over forward, for every weight against finite differences of the tangent (which
// agrees with the peer's). The file's own jvp_grad stands only for the last layer: for
// what lies before a LayerNorm, PyTorch's forward mode takes the mean and deviation in the
// tangent for constants, and its numbers are not the derivative of its own jvp.
TEST_P(DitFullReference, GradientsOfTheTangentAgree) {
  std::map<std::string, at::Tensor> exact;
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    network_->to(type);
    const at::Tensor x = input("input.x", type), t = input("input.t", type);
    const at::Tensor r = input("cotangent", type);
    const std::string last = "final_layer.linear.weight";
    for (const bool checkpointing : {false, true}) {
      network_->zero_grad();
      (with_tangents(x, t, type, checkpointing).tangent * r).sum().backward();
      const std::string suffix = type == at::kDouble ? "_f64." : ".";
      EXPECT_LT(relative_error(network_->named_parameters()[last].grad(),
                               reference_->at("jvp_grad" + suffix + last)), bound(type));
      for (auto& item : network_->named_parameters()) {
        // The tangent does not depend on what is added at the end.
        if (item.key() == "final_layer.linear.bias") continue;
        const at::Tensor gradient = item.value().grad();
        if (type == at::kDouble && !checkpointing)
          exact[item.key()] = gradient.clone();
        else
          EXPECT_LT(relative_error(gradient, exact.at(item.key())),
                    type == at::kDouble ? 1e-13 : 1e-4) << item.key();
      }
    }
    if (type == at::kFloat) continue;
    const at::NoGradGuard no_grad;
    for (auto& item : network_->named_parameters()) {
      if (item.key() == "final_layer.linear.bias") continue;
      at::Tensor weight = item.value();
      const at::Tensor start = weight.clone();
      const at::Tensor along = at::sin(at::arange(weight.numel(), at::kDouble) + 1)
                                   .view_as(weight);
      const auto at_step = [&](double h) {
        weight.copy_(start + h * along);
        return (with_tangents(x, t, type, false).tangent * r).sum().item<double>();
      };
      const double h = 1e-4;
      const double difference =
          (8 * (at_step(h) - at_step(-h)) - (at_step(2 * h) - at_step(-2 * h))) / (12 * h);
      weight.copy_(start);
      const at::Tensor& gradient = exact.at(item.key());
      EXPECT_NEAR((gradient * along).sum().item<double>(), difference,
                  1e-7 * gradient.norm().item<double>() * along.norm().item<double>())
          << item.key();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Peers, DitReference,
                         ::testing::Values(DitCase{"dit_learn_sigma", 6.4e-5},
                                           DitCase{"dit_no_sigma", 1e-5},
                                           DitCase{"sit_learn_sigma", 1e-5}),
                         [](const auto& one) { return std::string(one.param.file); });

INSTANTIATE_TEST_SUITE_P(Peers, DitFullReference,
                         ::testing::Values(DitCase{"dit_learn_sigma", 6.4e-5},
                                           DitCase{"sit_learn_sigma", 1e-5}),
                         [](const auto& one) { return std::string(one.param.file); });

TEST(DitLayers, EveryLayerAgrees) {
  FM_NEED_FILE(testing::network_file("dit_layers"));
  const NetworkReference reference("dit_layers");
  int checked = 0;
  at::ScalarType type = at::kFloat;
  const auto in = [&](const std::string& name) {
    return Dual(reference.at(name).to(type));
  };
  const auto check = [&](const std::string& name, const at::Tensor& got) {
    const bool is_double = type == at::kDouble;
    const std::string key = name + (is_double ? ".out_f64" : ".out");
    // Positions are in double precision only.
    if (!is_double && !reference.has(key)) return;
    EXPECT_LT(relative_error(got, reference.at(key)), is_double ? kDoubleBound : 3.1e-4)
        << key;
    ++checked;
  };
  const auto loaded = [&](const std::string& name, auto module) {
    testing::load_weights(*module, reference, name + ".", "");
    module->to(type);
    return module;
  };
  for (const at::ScalarType each : {at::kFloat, at::kDouble}) {
    type = each;
    for (const int64_t size : {256, 6, 7}) {
      const std::string name = "timestep_embedding_" + std::to_string(size);
      check(name, TimestepEmbedder(4, size, 10000).features(in(name + ".in.t")).value);
    }
    check("pos_embed_12_3", sincos_positions(12, 3, 3)[0]);
    check("pos_embed_16_3", sincos_positions(16, 3, 3)[0]);
    for (const int64_t patch : {2, 4}) {
      const std::string tail = "_patch" + std::to_string(patch);
      check("unpatchify" + tail,
            unpatchify(in("unpatchify" + tail + ".in.x"), patch, 3, 3).value);
      const auto embed = loaded("x_embedder" + tail,
                                std::make_shared<PatchEmbed>(patch == 2 ? 4 : 3, 8, patch));
      check("x_embedder" + tail, embed->forward(in("x_embedder" + tail + ".in.x")).value);
    }
    check("attention", loaded("attention", std::make_shared<TokenAttention>(12, 2))
                           ->forward(in("attention.in.x")).value);
    check("block", loaded("block", std::make_shared<DitBlock>(12, 2, 2.5))
                       ->forward(in("block.in.x"), in("block.in.c")).value);
    check("final_layer", loaded("final_layer", std::make_shared<DitFinalLayer>(12, 2, 3))
                             ->forward(in("final_layer.in.x"), in("final_layer.in.c"))
                             .value);
  }
  EXPECT_EQ(checked, 10 + 12);
}

// The first coordinate of the positions is the column, also where rows and columns differ.
TEST(DitLayers, PositionsOfImagesThatAreNotSquare) {
  const at::Tensor p = sincos_positions(8, 2, 3)[0];
  ASSERT_EQ(p.sizes(), at::IntArrayRef({6, 8}));
  EXPECT_NEAR(p[5][0].item<double>(), std::sin(2.0), 1e-15);  // row 1, column 2
  EXPECT_NEAR(p[5][4].item<double>(), std::sin(1.0), 1e-15);
  EXPECT_NEAR(p[2][4].item<double>(), 0, 1e-15);
}

// Normalised queries and keys forget their length, plain ones do not.
TEST(DitLayers, QkNormForgetsLengths) {
  const at::Tensor x = at::sin(at::arange(2 * 5 * 12, at::kDouble)).view({2, 5, 12});
  for (const QkNorm norm : {QkNorm::none, QkNorm::layer, QkNorm::rms}) {
    TokenAttention attention(12, 3, norm);
    initialise_weights(attention, 4);
    attention.to(at::kDouble);
    const at::Tensor before = attention.forward(Dual(x)).value;
    const at::NoGradGuard no_grad;
    attention.named_parameters()["qkv.weight"].narrow(0, 0, 24).mul_(1e3);
    const double moved = relative_error(attention.forward(Dual(x)).value, before);
    if (norm == QkNorm::none) {
      EXPECT_GT(moved, 1e-2);
    } else {
      EXPECT_LT(moved, 1e-3);
    }
    EXPECT_EQ(attention.named_parameters().contains("k_norm.bias"), norm == QkNorm::layer);
  }
}

struct DitCount {
  const char* preset;
  int64_t parameters, tensors, positions;
  double giga_multiply_adds;  // DiT's table 4
};

// Counts of the published configurations (latents of 4 x 32 x 32, 1000 classes, learned
// variance), to the unit. Nothing is allocated.
TEST(Dit, ParameterCountsOfPublishedConfigurations) {
  const DitCount cases[] = {
      {"S/2", 32865056, 131, 98304, 6.06},   {"S/4", 32920448, 131, 24576, 1.41},
      {"S/8", 33142016, 131, 6144, 0.36},    {"B/2", 130315808, 131, 196608, 23.01},
      {"B/4", 130426496, 131, 49152, 5.56},  {"B/8", 130869248, 131, 12288, 1.42},
      {"L/2", 457840672, 251, 262144, 80.71}, {"L/4", 457988224, 251, 65536, 19.70},
      {"L/8", 458578432, 251, 16384, 5.01},  {"XL/2", 674834720, 291, 294912, 118.64},
      {"XL/4", 675000704, 291, 73728, 29.05}, {"XL/8", 675664640, 291, 18432, 7.39},
  };
  const ShapesOnly no_memory;
  for (const char* type : {"dit", "sit"})
    for (const DitCount& c : cases) {
      Config options;
      options.set_override(std::string("type=") + type, "test");
      options.set_override(std::string("preset=") + c.preset, "test");
      const auto network = make_network(options, {{4, 32, 32}, 1000, 1, 0});
      EXPECT_EQ(parameter_count(*network), c.parameters) << type << " " << c.preset;
      EXPECT_EQ(static_cast<int64_t>(network->parameters().size()), c.tensors) << c.preset;
      ASSERT_EQ(network->buffers().size(), 1u);
      EXPECT_EQ(network->buffers()[0].numel(), c.positions) << c.preset;
      EXPECT_TRUE(network->parameters()[0].is_meta());
      EXPECT_NEAR(network->multiply_adds() / 1e9, c.giga_multiply_adds,
                  0.005 + 1e-3 * c.giga_multiply_adds) << c.preset;
    }
}

// What ShapesOnly counts is what a real network has, and it ends with its scope.
TEST(Dit, ShapesOnlyCountsTheSame) {
  const std::string unet = R"({"type": "ncsnpp", "model_channels": 8,
      "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]})";
  const std::string dit = R"({"type": "dit", "hidden_size": 16, "depth": 2,
      "num_heads": 2, "qk_norm": "layer"})";
  for (const std::string& text : {unet, dit}) {
    const Config options = Config::from_text(text, "test");
    const NetworkShape shape{{3, 8, 8}, 4, 2, 0};
    std::shared_ptr<Network> counted;
    {
      const ShapesOnly no_memory;
      counted = make_network(options, shape);
    }
    const auto real = make_network(options, shape);
    EXPECT_EQ(parameter_count(*counted), parameter_count(*real));
    EXPECT_EQ(counted->multiply_adds(), real->multiply_adds());
    auto expected = real->named_parameters();
    for (const auto& item : counted->named_parameters()) {
      EXPECT_TRUE(item.value().is_meta()) << item.key();
      EXPECT_EQ(item.value().sizes(), expected[item.key()].sizes()) << item.key();
      EXPECT_FALSE(expected[item.key()].is_meta());
    }
  }
}

const char* const kSmallDit =
    R"({"type": "dit", "hidden_size": 16, "depth": 4, "num_heads": 2)";

std::shared_ptr<Network> small_dit(const std::string& more, const NetworkShape& shape,
                                   bool lively = true) {
  const Config options = Config::from_text(kSmallDit + more + "}", "test");
  auto network = make_network(options, shape);
  options.check_all_read();
  const at::NoGradGuard no_grad;
  // The same for the parameters that two forms share; what starts at zero in the path of
  // the second time stays there.
  for (auto& item : network->named_parameters())
    if (lively && !item.key().starts_with("gap_embedder"))
      item.value().add_(draw_init(17, item.key(), item.value().sizes(), 1, 1,
                                  InitMode::kaiming_normal) * 0.1);
  return network;
}

// On the diagonal, two-time networks are the one-time network of the same weights; with
// s_gap at the start for every gap.
TEST(Dit, TwoTimesStartAsTheOneTimeNetwork) {
  const std::vector<int64_t> image = {1, 8, 8};
  const auto one = small_dit("", {image, 2, 1, 0});
  EXPECT_FALSE(one->second_time_is_gap());
  const at::Tensor x = at::sin(at::arange(192, at::kFloat)).view({3, 1, 8, 8});
  const at::Tensor s = at::tensor({0.0f, 5.0f, 16.0f}), t = s + 3;
  Context ctx;
  const at::Tensor expected = one->forward(Dual(x), Dual(s), {}, {}, ctx).value;
  EXPECT_GT(expected.abs().max().item<float>(), 0);
  for (const char* form : {"s_gap", "s_t", "encoder_decoder"}) {
    const bool gap = std::string(form) == "s_gap";
    const auto two = small_dit(std::string(R"(, "time_embedding": ")") + form + "\"",
                               {image, 2, 2, 0});
    EXPECT_EQ(two->second_time_is_gap(), gap);
    EXPECT_EQ(two->parameters().size(), one->parameters().size() + (gap ? 4u : 0u));
    EXPECT_GT(two->multiply_adds(), one->multiply_adds());
    const auto run = [&](const at::Tensor& second) {
      return two->forward(Dual(x), Dual(s), Dual(second), {}, ctx).value;
    };
    EXPECT_TRUE(at::equal(run(s), expected)) << form;
    EXPECT_EQ(at::equal(run(t), expected), gap) << form;
  }
}

// The encoder's blocks see s, the decoder's t.
TEST(Dit, DecoderDepthSaysWhoSeesTheSecondTime) {
  const at::Tensor x = at::sin(at::arange(128, at::kFloat)).view({2, 1, 8, 8});
  const at::Tensor s = at::tensor({2.0f, 5.0f});
  for (const int64_t depth : {0, 1, 3}) {
    const auto network = small_dit(R"(, "time_embedding": "encoder_decoder",
        "decoder_depth": )" + std::to_string(depth), {{1, 8, 8}, 0, 2, 0});
    const auto taps_at = [&](double t) {
      std::map<std::string, at::Tensor> taps;
      Context ctx;
      ctx.taps = &taps;
      taps["out"] = network->forward(Dual(x), Dual(s), Dual(at::full({2}, t)), {}, ctx)
                        .value;
      return taps;
    };
    const auto near = taps_at(6), far = taps_at(40);
    for (int64_t i = 0; i < 4; ++i) {
      const std::string name = "block" + std::to_string(i);
      EXPECT_EQ(at::equal(near.at(name), far.at(name)), i < 4 - depth) << name << depth;
    }
    EXPECT_FALSE(at::equal(near.at("out"), far.at("out"))) << depth;
  }
  EXPECT_THROW(small_dit(R"(, "time_embedding": "encoder_decoder", "decoder_depth": 4)",
                         {{1, 8, 8}, 0, 2, 0}), UsageError);
}

TEST(Dit, LabelsMixRowsAndFallBackToTheNullClass) {
  LabelEmbedder with_null(3, 4, true), without(3, 4, false);
  initialise_weights(with_null, 1);
  const at::Tensor table = with_null.parameters()[0];
  ASSERT_EQ(table.sizes(), at::IntArrayRef({4, 4}));
  const at::Tensor rows = with_null.forward(
      at::tensor({0.0f, 1.0f, 0.0f, 0.25f, 0.0f, 0.75f, 0.0f, 0.0f, 0.0f}).view({3, 3}));
  EXPECT_TRUE(at::equal(rows[0], table[1]));
  EXPECT_TRUE(at::allclose(rows[1], 0.25 * table[0] + 0.75 * table[2], 1e-6, 1e-8));
  EXPECT_TRUE(at::equal(rows[2], table[3]));
  EXPECT_EQ(without.forward(at::zeros({1, 3})).abs().max().item<float>(), 0);

  const NetworkShape shape{{1, 4, 4}, 3, 1, 0};
  const at::Tensor x = at::sin(at::arange(64, at::kFloat)).view({4, 1, 4, 4});
  const at::Tensor t = at::full({4}, 7.0f);
  const Draw draw(3, 0, 4);
  Condition some;
  some.class_labels = at::eye(3).index_select(0, at::tensor({0, 1, 2, 0}));
  const auto run = [&](Network& network, const Condition& c, bool train) {
    Context ctx;
    ctx.train = train;
    ctx.draw = &draw;
    return network.forward(Dual(x), Dual(t), {}, c, ctx).value;
  };
  // Dropped with probability one in training: the null class for all.
  const auto network = small_dit(R"(, "class_dropout_prob": 1)", shape);
  const at::Tensor none = run(*network, {}, false);
  EXPECT_FALSE(at::allclose(run(*network, some, false), none));
  EXPECT_TRUE(at::equal(run(*network, some, true), none));
  // About half of them with one half: each row is the label's or the null class's.
  const auto half = small_dit(R"(, "class_dropout_prob": 0.5)", shape);
  const at::Tensor kept = run(*half, some, false).flatten(1), got =
      run(*half, some, true).flatten(1);
  const at::Tensor is_kept = got.eq(kept).all(1), is_null = got.eq(none.flatten(1)).all(1);
  EXPECT_TRUE(is_kept.logical_xor(is_null).all().item<bool>());
  EXPECT_TRUE(is_kept.any().item<bool>() && is_null.any().item<bool>());
  // No null class: labels must be given.
  const auto bare = small_dit(R"(, "class_dropout_prob": 0)", shape);
  EXPECT_THROW(run(*bare, {}, false), UsageError);
  EXPECT_NO_THROW(run(*bare, some, true));
}

TEST(Dit, ChannelsThatComeOut) {
  const auto channels = [](const char* type, const char* more, int64_t asked) {
    const Config options = Config::from_text(
        std::string(R"({"type": ")") + type + R"(", "hidden_size": 16, "depth": 1,
        "num_heads": 2)" + more + "}", "test");
    const auto network = make_network(options, {{3, 4, 4}, 0, 1, asked});
    Context ctx;
    return network->forward(Dual(at::ones({1, 3, 4, 4})), Dual(at::ones({1})), {}, {}, ctx)
        .value.size(1);
  };
  EXPECT_EQ(channels("dit", "", 0), 6);
  EXPECT_EQ(channels("dit", R"(, "learn_sigma": false)", 0), 3);
  EXPECT_EQ(channels("dit", "", 5), 5);
  EXPECT_EQ(channels("sit", "", 0), 3);
  EXPECT_EQ(channels("sit", "", 5), 5);
}

TEST(Dit, StartsAsThePapersCode) {
  const Config options = Config::from_text(
      R"({"type": "sit", "hidden_size": 64, "depth": 1, "num_heads": 2})", "test");
  const auto network = make_network(options, {{4, 8, 8}, 100, 2, 0});
  EXPECT_EQ(network->default_time_scale(), 1);
  auto p = network->named_parameters();
  const auto deviation = [&](const char* name) { return p[name].std().item<double>(); };
  EXPECT_NEAR(deviation("t_embedder.mlp.0.weight"), 0.02, 1e-3);
  EXPECT_NEAR(deviation("t_embedder.mlp.2.weight"), 0.02, 1e-3);
  EXPECT_NEAR(deviation("y_embedder.embedding_table.weight"), 0.02, 1e-3);
  // Uniform, deviation sqrt(2 / (fan_in + fan_out)).
  const auto uniform = [&](const char* name, double fans) {
    EXPECT_NEAR(deviation(name), std::sqrt(2 / fans), 0.05 * std::sqrt(2 / fans)) << name;
    EXPECT_LE(p[name].abs().max().item<double>(), std::sqrt(6 / fans) * (1 + 1e-6));
  };
  uniform("x_embedder.proj.weight", 4 * 4 + 64);
  uniform("blocks.0.attn.qkv.weight", 64 + 192);
  uniform("blocks.0.attn.proj.weight", 64 + 64);
  uniform("blocks.0.mlp.fc1.weight", 64 + 256);
  for (const char* name : {"blocks.0.adaLN_modulation.1.weight",
                           "final_layer.linear.weight",
                           "final_layer.adaLN_modulation.1.weight", "gap_embedder.mlp.2.weight",
                           "blocks.0.mlp.fc1.bias"})
    EXPECT_EQ(p[name].abs().max().item<float>(), 0) << name;
}

TEST(Dit, WrongOptionsAreNamed) {
  const auto message = [](const std::string& more, const NetworkShape& shape) {
    try {
      make_network(Config::from_text(R"({"type": "sit")" + more + "}", "test"), shape);
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  const NetworkShape image{{1, 28, 28}, 0, 1, 0};
  const auto expect = [&](const char* more, const NetworkShape& shape, const char* word) {
    EXPECT_NE(message(more, shape).find(word), std::string::npos) << message(more, shape);
  };
  expect(R"(, "patch_size": 3)", image, "network.patch_size");
  expect(R"(, "hidden_size": 18)", image, "network.hidden_size");
  expect(R"(, "hidden_size": 20, "num_heads": 3)", image, "network.num_heads");
  expect(R"(, "preset": "M/2")", image, "preset");
  expect(R"(, "qk_norm": "batch")", image, "qk_norm");
  expect("", {{2}, 0, 1, 0}, "network.type=mlp");
  EXPECT_THROW(classifier_free_guidance(Dual(at::ones({1, 2, 4, 4})),
                                        Dual(at::ones({1, 2, 4, 4})), 2, 3), UsageError);
}

// Pixels as well as latents, and presets that single sizes overrule.
TEST(Dit, SmallImages) {
  const auto network = small_dit(R"(, "preset": "S/4")", {{1, 28, 20}, 0, 1, 0});
  EXPECT_EQ(network->named_parameters()["x_embedder.proj.weight"].sizes(),
            at::IntArrayRef({16, 1, 4, 4}));
  EXPECT_EQ(network->buffers()[0].sizes(), at::IntArrayRef({1, 35, 16}));
  Context ctx;
  const Dual out = network->forward(Dual(at::ones({2, 1, 28, 20})), Dual(at::ones({2})),
                                    {}, {}, ctx);
  EXPECT_EQ(out.value.sizes(), at::IntArrayRef({2, 2, 28, 20}));
}

}  // namespace
}  // namespace flowmap
