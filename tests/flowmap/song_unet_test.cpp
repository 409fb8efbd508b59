// DDPM++ and NCSN++ against numbers made by EDM's and SlimFlow's own programs, and the
// parameter counts of their published configurations.
#include "flowmap/nn/song_unet.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/model.h"
#include "flowmap/ops.h"
#include "tests/flowmap/edm_reference.h"
#include "tests/support/network_reference.h"

namespace flowmap {
namespace {

using testing::kDoubleBound;
using testing::NetworkReference;
using testing::relative_error;

class SongReference : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { FM_NEED_FILE(testing::network_file(GetParam())); }
};

TEST_P(SongReference, OutputsAgree) {
  const NetworkReference reference(GetParam());
  auto model = testing::load_edm_model(reference);
  if (HasFatalFailure()) return;
  testing::check_edm_outputs(reference, *model);
}

class SongDerivatives : public SongReference {};  // files that hold derivatives

TEST_P(SongDerivatives, Agree) {
  const NetworkReference reference(GetParam());
  auto model = testing::load_edm_model(reference);
  if (HasFatalFailure()) return;
  const bool fourier = std::string(GetParam()).starts_with("ve");
  testing::check_edm_derivatives(reference, *model, fourier ? 1.9e-4 : 1.6e-5);
}

INSTANTIATE_TEST_SUITE_P(Edm, SongReference,
                         ::testing::Values("edm_ddpmpp_uncond", "edm_ddpmpp_cond_augment",
                                           "edm_song_skip_skip", "vp_ddpmpp_gray",
                                           "ve_ncsnpp_cond", "edm_ncsnpp_augment",
                                           "edm_snapshot_ddpmpp"),
                         [](const auto& one) { return std::string(one.param); });

INSTANTIATE_TEST_SUITE_P(Edm, SongDerivatives,
                         ::testing::Values("edm_ddpmpp_uncond", "ve_ncsnpp_cond"),
                         [](const auto& one) { return std::string(one.param); });

// SlimFlow's network is this one with time_scale 999; the file calls it with 999 t.
TEST(SongUNet, SlimFlowAgrees) {
  FM_NEED_FILE(testing::network_file("slimflow_as_songunet"));
  const NetworkReference reference("slimflow_as_songunet");
  const Config options = Config::from_text(
      R"({"type": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
          "attn_resolutions": [4]})", "test");
  auto network = make_network(options, {{3, 8, 8}, 0, 1, 0});
  for (const char* root : {"enc.", "dec.", "map_"})
    testing::load_weights(*network, reference, "", root);
  network->to(at::kDouble);
  Context ctx;
  const Dual out = network->forward(Dual(reference.at("input.x").to(at::kDouble)),
                                    Dual(reference.at("input.t").to(at::kDouble)), {}, {},
                                    ctx);
  EXPECT_LT(relative_error(out.value, reference.at("output_f64")), kDoubleBound);
}

// Trainable counts of the published configurations, to the unit.
TEST(SongUNet, ParameterCountsOfPublishedConfigurations) {
  const testing::CountCase cases[] = {
      {"CIFAR-10 cond DDPM++", R"({"network": {"type": "ddpmpp", "augment_dim": 9},
        "sample_shape": [3, 32, 32], "label_dim": 10})", 55735299, 419, 32},
      {"the same, no augmentation", R"({"network": {"type": "ddpmpp"},
        "sample_shape": [3, 32, 32], "label_dim": 10})", 55734147, 418, 32},
      {"CIFAR-10 uncond DDPM++", R"({"network": {"type": "ddpmpp", "augment_dim": 9},
        "sample_shape": [3, 32, 32]})", 55733891, 417, 32},
      {"the same, no augmentation", R"({"network": {"type": "ddpmpp"},
        "sample_shape": [3, 32, 32]})", 55732739, 416, 32},
      {"FFHQ-64 DDPM++", R"({"network": {"type": "ddpmpp", "augment_dim": 9,
        "channel_mult": [1, 2, 2, 2]}, "sample_shape": [3, 64, 64]})", 61805571, 541, 48},
      {"the same, no augmentation", R"({"network": {"type": "ddpmpp",
        "channel_mult": [1, 2, 2, 2]}, "sample_shape": [3, 64, 64]})", 61804419, 540, 48},
      {"CIFAR-10 cond NCSN++", R"({"network": {"type": "ncsnpp", "augment_dim": 9},
        "sample_shape": [3, 32, 32], "label_dim": 10})", 56400643, 423, 288},
      {"the same, no augmentation", R"({"network": {"type": "ncsnpp"},
        "sample_shape": [3, 32, 32], "label_dim": 10})", 56398339, 422, 288},
      {"CIFAR-10 uncond NCSN++", R"({"network": {"type": "ncsnpp", "augment_dim": 9},
        "sample_shape": [3, 32, 32]})", 56397827, 421, 288},
      {"the same, no augmentation", R"({"network": {"type": "ncsnpp"},
        "sample_shape": [3, 32, 32]})", 56395523, 420, 288},
      {"FFHQ-64 NCSN++", R"({"network": {"type": "ncsnpp", "augment_dim": 9,
        "channel_mult": [1, 2, 2, 2]}, "sample_shape": [3, 64, 64]})", 62761091, 547, 368},
      {"the same, no augmentation", R"({"network": {"type": "ncsnpp",
        "channel_mult": [1, 2, 2, 2]}, "sample_shape": [3, 64, 64]})", 62758787, 546, 368},
      {"SlimFlow CIFAR-10 27.9M", R"({"network": {"type": "ddpmpp", "num_blocks": 2,
        "channel_mult": [1, 2, 2]}, "sample_shape": [3, 32, 32]})", 27906179, -1, -1},
      {"SlimFlow CIFAR-10 15.7M", R"({"network": {"type": "ddpmpp", "num_blocks": 2,
        "model_channels": 96, "channel_mult": [1, 2, 2]}, "sample_shape": [3, 32, 32]})",
       15707235, -1, -1},
      {"SlimFlow CIFAR-10 7.0M", R"({"network": {"type": "ddpmpp", "num_blocks": 2,
        "model_channels": 64, "channel_mult": [1, 2, 2]}, "sample_shape": [3, 32, 32]})",
       6989891, -1, -1},
      {"SlimFlow CIFAR-10 3.4M", R"({"network": {"type": "ddpmpp", "num_blocks": 1,
        "model_channels": 64, "channel_mult": [1, 1, 2]}, "sample_shape": [3, 32, 32]})",
       3437123, -1, -1},
      {"SlimFlow CIFAR-10 teacher", R"({"network": {"type": "ddpmpp",
        "channel_mult": [1, 2, 2, 2]}, "sample_shape": [3, 32, 32]})", 61804419, -1, -1},
      {"SlimFlow FFHQ-64 27.9M", R"({"network": {"type": "ddpmpp", "num_blocks": 2,
        "channel_mult": [1, 2, 2]}, "sample_shape": [3, 64, 64]})", 27906179, -1, -1},
      {"SlimFlow FFHQ-64 15.7M", R"({"network": {"type": "ddpmpp", "num_blocks": 2,
        "model_channels": 96, "channel_mult": [1, 2, 2]}, "sample_shape": [3, 64, 64]})",
       15707235, -1, -1},
  };
  for (const testing::CountCase& c : cases) testing::check_counts(c);
}

// Each kind of layer alone.
class LayerReference : public ::testing::Test {
 protected:
  void SetUp() override { FM_NEED_FILE(testing::network_file("edm_layers")); }
};

Conv2dOptions conv_options(const Config& k) {
  Conv2dOptions o;
  o.kernel = k.integer("kernel");
  o.bias = k.boolean("bias", true);
  o.up = k.boolean("up", false);
  o.down = k.boolean("down", false);
  o.resample_filter = k.numbers("resample_filter", std::vector<double>{1, 1});
  o.fused_resample = k.boolean("fused_resample", false);
  return o;
}

UNetBlockOptions block_options(const Config& k) {
  UNetBlockOptions o;
  o.emb_channels = k.integer("emb_channels");
  o.up = k.boolean("up", false);
  o.down = k.boolean("down", false);
  o.attention = k.boolean("attention", false);
  o.num_heads = k.integer("num_heads", 0);
  o.channels_per_head = k.integer("channels_per_head", 64);
  o.skip_scale = k.number("skip_scale", 1);
  o.eps = k.number("eps", 1e-5);
  o.resample_filter = k.numbers("resample_filter", std::vector<double>{1, 1});
  o.resample_proj = k.boolean("resample_proj", false);
  o.adaptive_scale = k.boolean("adaptive_scale", true);
  return o;
}

TEST_F(LayerReference, EveryLayerAgrees) {
  const NetworkReference reference("edm_layers");
  const Config cases = Config::from_text(reference.cases, "cases");
  int checked = 0;
  const auto run = [&](const std::string& name, auto module, auto&& call) {
    testing::load_weights(*module, reference, name + ".", "");
    module->to(at::kDouble);
    EXPECT_LT(relative_error(call(*module).value, reference.at(name + ".out_f64")),
              kDoubleBound) << name;
    ++checked;
  };
  const auto in = [&](const std::string& name) {
    return Dual(reference.at(name).to(at::kDouble));
  };
  for (const std::string& name : cases.keys()) {
    if (cases.raw(name).front() != '{') continue;
    const Config one = cases.child(name);
    const std::string type = one.string("class", "");
    const Config k = one.child("kwargs");
    const auto plain = [&](auto& m) { return m.forward(in(name + ".in.x")); };
    if (type == "Linear") {
      run(name, std::make_shared<Linear>(k.integer("in_features"),
                                         k.integer("out_features"), Init{},
                                         k.boolean("bias", true)), plain);
    } else if (type == "Conv2d") {
      run(name, std::make_shared<Conv2d>(k.integer("in_channels"),
                                         k.integer("out_channels"), conv_options(k)),
          plain);
    } else if (type == "GroupNorm") {
      run(name, std::make_shared<GroupNorm>(k.integer("num_channels"),
                                            k.number("eps", 1e-5),
                                            k.integer("num_groups", 32),
                                            k.integer("min_channels_per_group", 4)),
          plain);
    } else if (type == "PositionalEmbedding") {
      run(name, std::make_shared<PositionalEmbedding>(k.integer("num_channels"),
                                                      k.boolean("endpoint", false),
                                                      k.number("max_positions", 10000)),
          plain);
    } else if (type == "FourierEmbedding") {
      run(name, std::make_shared<FourierEmbedding>(k.integer("num_channels"),
                                                   k.number("scale", 16)), plain);
    } else if (type == "UNetBlock") {
      run(name, std::make_shared<UNetBlock>(k.integer("in_channels"),
                                            k.integer("out_channels"), block_options(k),
                                            name),
          [&](auto& m) {
            return m.forward(in(name + ".in.x"), in(name + ".in.emb"), Context{});
          });
    }
  }
  EXPECT_EQ(checked, 56);
}

TEST_F(LayerReference, AttentionWeightsAgree) {
  const NetworkReference reference("edm_layers");
  const at::Tensor q = reference.at("attention.in.q").to(at::kDouble);
  const at::Tensor k = reference.at("attention.in.k").to(at::kDouble);
  const int64_t tokens = q.size(2);
  const at::Tensor identity =
      at::eye(tokens, q.options()).expand({q.size(0), tokens, tokens});
  const Dual weights =
      ops::attention(Dual(q.transpose(1, 2)), Dual(k.transpose(1, 2)), Dual(identity),
                     1 / std::sqrt(static_cast<double>(q.size(1))));
  EXPECT_LT(relative_error(weights.value, reference.at("attention.out_f64")),
            kDoubleBound);
}

// Counted again from the weights: each convolution's numbers times the pixels of the
// level its name gives, the resampling filters, linears, and 2 P^2 C for attention.
TEST(SongUNet, MultiplyAddsAreCounted) {
  const Config options = Config::from_text(
      R"({"type": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
          "attn_resolutions": [4]})", "test");
  const auto network = build_network(options, {{3, 8, 8}, 0, 1, 0});
  double expected = 0;
  const auto pixels = [](const std::string& name) {
    return name.find("8x8") != std::string::npos ? 64.0 : 16.0;
  };
  for (const auto& item : network->named_parameters()) {
    const at::Tensor& p = item.value();
    if (p.dim() == 2) expected += static_cast<double>(p.numel());
    if (p.dim() == 4) expected += static_cast<double>(p.numel()) * pixels(item.key());
    if (item.key().ends_with("proj.weight"))
      expected += 2 * pixels(item.key()) * pixels(item.key()) *
                  static_cast<double>(p.size(0));
  }
  // Two filters of 2x2 taps a resampling block, on the 4x4 side; 8 channels go down and
  // 16 up.
  expected += 2 * 4 * 16 * (8 + 16);
  EXPECT_EQ(network->multiply_adds(), expected);
}

TEST(SongUNet, OddSizesAreRefused) {
  const Config options = Config::from_text(
      R"({"type": "ddpmpp", "model_channels": 8, "channel_mult": [1, 1, 1, 1]})", "test");
  try {
    build_network(options, {{1, 28, 28}, 0, 1, 0});
    FAIL() << "28 does not halve three times";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("channel_mult"), std::string::npos) << e.what();
  }
  const Config patched =
      Config::from_text(R"({"type": "ddpmpp", "model_channels": 8, "patch": 3})", "test");
  EXPECT_THROW(build_network(patched, {{1, 28, 28}, 0, 1, 0}), UsageError);
}

// 14 channels would be 3 groups, which do not divide them: 2 it is.
TEST(SongUNet, GroupsDivideEveryWidth) {
  const GroupNorm norm(14, 1e-6);
  const at::Tensor x = at::sin(at::arange(2 * 14 * 9, at::kFloat) * 0.7).view({2, 14, 9});
  const at::Tensor y = norm.forward(Dual(x)).value.view({2, 2, 7 * 9});
  EXPECT_LT(y.mean(2).abs().max().item<double>(), 1e-6);
  EXPECT_LT((y.square().mean(2) - 1).abs().max().item<double>(), 1e-4);
}

TEST(SongUNet, LevelsAreNamedByHeight) {
  const Config options = Config::from_text(
      R"({"type": "ddpmpp", "model_channels": 8, "channel_mult": [1, 1, 1],
          "num_blocks": 1})", "test");
  const auto network = build_network(options, {{1, 28, 16}, 0, 1, 0});
  const auto names = network->named_parameters();
  for (const char* name : {"enc.28x28_conv.weight", "enc.14x14_down.conv0.weight",
                           "enc.7x7_block0.conv0.weight", "dec.7x7_in0.qkv.weight",
                           "dec.28x28_aux_conv.bias"})
    EXPECT_TRUE(names.contains(name)) << name;
  Context ctx;
  const Dual out = network->forward(Dual(at::ones({3, 1, 28, 16})), Dual(at::ones({3})),
                                    {}, {}, ctx);
  EXPECT_EQ(out.value.sizes(), at::IntArrayRef({3, 1, 28, 16}));
}

TEST(SongUNet, PatchesFoldAndUnfold) {
  const at::Tensor x = at::arange(2 * 3 * 8 * 12, at::kFloat).view({2, 3, 8, 12});
  const Dual folded = fold_patches(Dual(x), 2);
  ASSERT_EQ(folded.value.sizes(), at::IntArrayRef({2, 12, 4, 6}));
  // Channel 4c + 2i + j of pixel (y, x) is channel c of pixel (2y + i, 2x + j).
  EXPECT_EQ(folded.value[1][4 * 2 + 2 * 1 + 0][3][5].item<float>(),
            x[1][2][7][10].item<float>());
  EXPECT_TRUE(at::equal(unfold_patches(folded, 2).value, x));

  const Config options = Config::from_text(
      R"({"type": "ddpmpp", "model_channels": 8, "channel_mult": [1, 1], "num_blocks": 1,
          "patch": 2})", "test");
  const auto network = build_network(options, {{1, 28, 28}, 0, 1, 0});
  EXPECT_TRUE(network->named_parameters().contains("enc.14x14_conv.weight"));
  Context ctx;
  const Dual out = network->forward(Dual(at::ones({1, 1, 28, 28})), Dual(at::ones({1})),
                                    {}, {}, ctx);
  EXPECT_EQ(out.value.sizes(), at::IntArrayRef({1, 1, 28, 28}));
}

}  // namespace
}  // namespace flowmap
