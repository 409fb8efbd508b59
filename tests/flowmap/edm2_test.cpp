// The edm2 network against numbers made by EDM2's and the flow-map authors' own programs,
// and the parameter counts of their published configurations.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/mp_layers.h"
#include "flowmap/ops.h"
#include "tests/support/edm2_reference.h"

namespace flowmap {
namespace {

using testing::NetworkReference;
using testing::relative_error;

constexpr double kDoubleBound = 1e-10, kFloatBound = 1e-5;

class Edm2Reference : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { FM_NEED_FILE(testing::network_file(GetParam())); }
};

TEST_P(Edm2Reference, OutputsAgree) {
  const NetworkReference reference(GetParam());
  auto model = testing::load_edm2(reference);
  if (HasFatalFailure()) return;
  EXPECT_TRUE(model->has_log_variance());
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    model->to(type);
    const std::string out = type == at::kDouble ? "output_f64" : "output";
    const double bound = type == at::kDouble ? kDoubleBound : kFloatBound;
    const at::Tensor x = reference.at("input.x").to(type);
    const at::Tensor sigma = reference.at("input.sigma").to(type);
    const auto denoise = [&](const at::Tensor& labels) {
      Condition c;
      c.class_labels = labels;
      Context ctx;
      return model->denoise(Dual(x), Dual(sigma), c, ctx).value;
    };
    EXPECT_LT(relative_error(denoise(reference.input("class_labels")), reference.at(out)),
              bound);
    if (const std::string name = out + ".no_class_labels"; reference.has(name)) {
      EXPECT_LT(relative_error(denoise({}), reference.at(name)), bound);
      EXPECT_TRUE(at::equal(denoise(at::zeros_like(reference.input("class_labels"))),
                            denoise({})));
    }
    if (const std::string name = out + ".logvar"; reference.has(name)) {
      EXPECT_LT(relative_error(model->log_variance(sigma), reference.at(name).flatten()),
                bound);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Edm2, Edm2Reference,
                         ::testing::Values("edm2_cond", "edm2_uncond_options",
                                           "edm2_snapshot"),
                         [](const auto& one) { return std::string(one.param); });

TEST(Edm2, DerivativesAgree) {
  FM_NEED_FILE(testing::network_file("edm2_cond"));
  const NetworkReference reference("edm2_cond");
  auto model = testing::load_edm2(reference);
  if (HasFatalFailure()) return;
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    model->to(type);
    const bool is_double = type == at::kDouble;
    const std::string suffix = is_double ? "_f64" : "";
    const double bound = is_double ? kDoubleBound : 3e-5;
    const at::Tensor x = reference.at("input.x").to(type).clone().requires_grad_();
    const at::Tensor sigma = reference.at("input.sigma").to(type).clone().requires_grad_();
    const at::Tensor r = reference.at("cotangent").to(type);
    for (const bool checkpoint : {false, true}) {
      Condition c;
      c.class_labels = reference.input("class_labels");
      Context ctx;
      ctx.gradient_checkpointing = checkpoint;
      const Dual out =
          model->denoise(Dual(x, reference.at("tangent.x").to(type)),
                         Dual(sigma, reference.at("tangent.sigma").to(type)), c, ctx);
      EXPECT_LT(relative_error(out.value, reference.at("output" + suffix)), bound);
      EXPECT_LT(relative_error(out.tangent, reference.at("jvp" + suffix)), bound);
      x.mutable_grad().reset();
      sigma.mutable_grad().reset();
      model->zero_grad();
      (out.value * r).sum().backward({}, /*retain_graph=*/true);
      EXPECT_LT(relative_error(x.grad(), reference.at("grad" + suffix + ".x")), bound);
      EXPECT_LT(relative_error(sigma.grad(), reference.at("grad" + suffix + ".sigma")),
                bound);
      testing::check_edm2_gradients(*model, reference, "grad" + suffix, bound, 4);
      model->zero_grad();
      (out.tangent * r).sum().backward();
      testing::check_edm2_gradients(*model, reference, "jvp_grad" + suffix, bound, 4);
    }
  }
}

// --- flow maps of the published code --------------------------------------------------

TEST(FlowMapsEdm2, OutputsAgree) {
  FM_NEED_FILE(testing::network_file("flowmaps_edm2"));
  const NetworkReference reference("flowmaps_edm2");
  auto model = testing::load_edm2(reference);
  if (HasFatalFailure()) return;
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    model->to(type);
    const std::string suffix = type == at::kDouble ? "_f64" : "";
    const double bound = type == at::kDouble ? kDoubleBound : kFloatBound;
    const auto in = [&](const char* name) { return reference.input(name).to(type); };
    const auto check = [&](const std::string& name, const at::Tensor& got) {
      const at::Tensor& want = reference.at(name);
      EXPECT_LT(relative_error(got, want), bound) << name;
    };
    const Dual x(in("x0")), s(in("s")), t(in("t"));
    const at::Tensor one = at::ones_like(s.value);
    Condition c;
    c.class_labels = at::one_hot(reference.input("label").to(at::kLong), 4);
    Context ctx;
    check("output" + suffix + ".X", model->map(x, s, t, c, ctx).value);
    check("output" + suffix + ".identity", model->map(x, s, s, c, ctx).value);
    check("output" + suffix + ".phi", model->average_velocity(x, s, t, c, ctx).value);
    check("output" + suffix + ".b", model->velocity(x, t, c, ctx).value);
    check("output" + suffix + ".partial_t",
          model->map(x, s, Dual(t.value, one), c, ctx).tangent);
    check("output" + suffix + ".partial_s",
          model->map(x, Dual(s.value, one), t, c, ctx).tangent);
    check("jvp" + suffix, model->map(Dual(x.value, in("tangent_x")),
                                     Dual(s.value, in("tangent_s")),
                                     Dual(t.value, in("tangent_t")), c, ctx).tangent);
    check("output" + suffix + ".weight", model->log_weight(s.value, t.value));
  }
}

// --- counts ---------------------------------------------------------------------------

struct Size {
  int64_t parameters, tensors, buffers;
};

Size size_of(const Config& spec) {
  const ShapesOnly no_numbers;
  const auto model = make_model(spec, 0);
  spec.check_all_read();
  Size size{parameter_count(*model), static_cast<int64_t>(model->parameters().size()), 0};
  for (const at::Tensor& b : model->buffers()) size.buffers += b.numel();
  return size;
}

TEST(Edm2, ParameterCountsOfPublishedConfigurations) {
  const struct {
    const char* preset;
    int64_t img64, img512, buffers;
  } cases[] = {{"XXS", 31307877, 31309029, 384},
               {"XS", 124710949, 124713253, 512},
               {"S", 280209381, 280212837, 640},
               {"M", 497803173, 497807781, 768},
               {"L", 777492325, 777498085, 896},
               {"XL", 1119276837, 1119283749, 1024},
               {"XXL", 1523156709, 1523164773, 1152}};
  for (const auto& c : cases)
    for (const int channels : {3, 4}) {
      const std::string text = R"({"network": {"type": "edm2", "preset": ")" +
                               std::string(c.preset) +
                               R"("}, "preconditioning": {"type": "edm2"},
                                "label_dim": 1000, "sample_shape": [)" +
                               std::to_string(channels) + ", 64, 64]}";
      const Size size = size_of(Config::from_text(text, c.preset));
      EXPECT_EQ(size.parameters, channels == 3 ? c.img64 : c.img512) << c.preset;
      EXPECT_EQ(size.tensors, 199) << c.preset;
      EXPECT_EQ(size.buffers, c.buffers) << c.preset;
    }
}

TEST(FlowMapsEdm2, ParameterCountsOfPublishedConfigurations) {
  const auto size = [](const std::string& kwargs) {
    return size_of(testing::flow_map_spec(Config::from_text(kwargs, "test")));
  };
  const Size cifar = size(R"({"img_resolution": 32, "img_channels": 3, "label_dim": 0,
      "rescale": 0.5, "logvar_channels": 128, "unet_kwargs": {"model_channels": 128,
      "channel_mult": [2, 2, 2], "num_blocks": 4, "attn_resolutions": [16],
      "block_kwargs": {"dropout": 0.13}}})");
  EXPECT_EQ(cifar.parameters, 54673314);
  EXPECT_EQ(cifar.tensors, 173);
  const Size faces = size(R"({"img_resolution": 64, "img_channels": 3, "label_dim": 0,
      "rescale": 0.5, "logvar_channels": 128, "unet_kwargs": {"model_channels": 128,
      "channel_mult": [1, 2, 3, 4], "num_blocks": 3, "attn_resolutions": [16, 8],
      "block_kwargs": {"dropout": 0.0}}})");  // CelebA and AFHQ
  EXPECT_EQ(faces.parameters, 124264485);
  EXPECT_EQ(faces.tensors, 199);
  EXPECT_EQ(faces.buffers, 0);
}

// Counted again from the weights: each convolution's numbers times the pixels of the
// level its name gives, linears, the resampling filters, and 2 P^2 C for attention.
TEST(Edm2, MultiplyAddsAreCounted) {
  const Config options = Config::from_text(
      R"({"type": "edm2", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
          "attn_resolutions": [4], "channels_per_head": 8})", "test");
  const auto network = make_network(options, {{3, 8, 8}, 5, 1, 0});
  double expected = 0;
  for (const auto& item : network->named_parameters()) {
    const at::Tensor& w = item.value();
    if (w.dim() < 2) continue;
    const bool low = item.key().find(".4x4_") != std::string::npos;
    const double pixels = w.dim() == 2 ? 1 : low ? 16 : 64;
    expected += static_cast<double>(w.numel()) * pixels;
    // enc.4x4_block0, dec.4x4_in0, dec.4x4_block0, dec.4x4_block1 attend with 16 channels.
    if (item.key().ends_with("attn_qkv.weight")) expected += 2.0 * 16 * 16 * 16;
  }
  expected += 4 * 8 * 16 + 4 * 16 * 16;  // down from 8 channels, up from 16
  EXPECT_EQ(network->multiply_adds(), expected);
}

// --- layers ---------------------------------------------------------------------------

class Edm2Layers : public ::testing::Test {
 protected:
  void SetUp() override { FM_NEED_FILE(testing::network_file("edm2_layers")); }
};

MpBlockOptions block_options(const Config& k) {
  MpBlockOptions o;
  o.emb_channels = k.integer("emb_channels");
  o.encoder = k.string("flavor", "enc") == "enc";
  const std::string mode = k.string("resample_mode", "keep");
  o.resample = mode == "up"     ? Resample::up
               : mode == "down" ? Resample::down
                                : Resample::keep;
  o.attention = k.boolean("attention", false);
  o.channels_per_head = k.integer("channels_per_head", 64);
  o.res_balance = k.number("res_balance", 0.3);
  o.attn_balance = k.number("attn_balance", 0.3);
  const std::vector<std::string> keys = k.keys();
  const bool given = std::count(keys.begin(), keys.end(), "clip_act") > 0;
  o.clip_act = given && !k.has("clip_act") ? 0 : k.number("clip_act", 256);  // null: off
  return o;
}

TEST_F(Edm2Layers, EveryLayerAgrees) {
  const NetworkReference reference("edm2_layers");
  // Keys of a configuration hold no dots.
  std::string text = reference.cases;
  for (const std::string head : {"mp_sum_0", "mp_sum_1", "mp_cat_0"})
    for (std::size_t i = 0; (i = text.find(head + ".", i)) != std::string::npos;)
      text[i + head.size()] = '~';
  const Config cases = Config::from_text(text, "cases");
  int checked = 0;
  for (std::string name : cases.keys()) {
    const Config one = cases.raw(name).front() == '{' ? cases.child(name) : Config();
    std::replace(name.begin(), name.end(), '~', '.');
    for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
      const auto in = [&](const char* argument) {
        return Dual(reference.at(name + ".in." + argument).to(type));
      };
      const auto load = [&](auto module) {
        testing::load_weights(*module, reference, name + ".", "");
        module->to(type);
        return module;
      };
      const auto starts = [&](const char* head) { return name.starts_with(head); };
      const auto balance = [&] { return std::stod(name.substr(name.rfind('_') + 1)); };
      Dual out;
      if (starts("normalize")) {
        const Dual x = in("x");
        std::vector<int64_t> dims = {1};
        if (name == "normalize_head") dims = {2};
        if (name == "normalize_all") dims = {1, 2, 3};
        out = ops::rms_normalize(x, dims, kMpEps);
        if (name == "normalize_all") {
          EXPECT_TRUE(at::equal(normalized_weight(x.value), out.value));
        }
      } else if (starts("resample")) {
        const std::vector<double> narrow = {1, 1}, wide = {1, 3, 3, 1};
        out = mp_resample(in("x"), name.ends_with("f2") ? narrow : wide,
                          starts("resample_up")     ? Resample::up
                          : starts("resample_down") ? Resample::down
                                                    : Resample::keep);
      } else if (starts("mp_silu")) {
        out = mp_silu(in("x"));
      } else if (starts("mp_sum")) {
        out = mp_sum(in("a"), in("b"), balance());
      } else if (starts("mp_cat")) {
        out = mp_cat(in("a"), in("b"), balance());
      } else if (starts("mp_fourier")) {
        const int64_t channels = reference.at(name + ".freqs").numel();
        out = load(std::make_shared<MpFourier>(channels))->forward(in("x"));
      } else if (starts("mp_conv")) {
        const at::Tensor& w = reference.at(name + ".weight");
        const auto conv = load(std::make_shared<MpConv>(
            w.size(1), w.size(0), w.dim() == 2 ? 0 : w.size(2)));
        out = conv->forward(in("x"), name.ends_with("gain") ? in("gain").value
                                                            : at::Tensor());
      } else {
        const Config k = one.child("kwargs");
        const auto block = load(std::make_shared<MpBlock>(
            k.integer("in_channels"), k.integer("out_channels"), block_options(k), name));
        out = block->forward(in("x"), in("emb"), Context{});
      }
      const std::string key = name + (type == at::kDouble ? ".out_f64" : ".out");
      const at::Tensor& want = reference.at(key);
      if (name == "normalize_zero") {
        EXPECT_TRUE(at::equal(out.value, want));
      } else {
        EXPECT_LT(relative_error(out.value, want),
                  type == at::kDouble ? kDoubleBound : kFloatBound) << key;
      }
      ++checked;
    }
  }
  EXPECT_EQ(checked, 2 * 33);
}

// At zero the derivative is 1 / eps in every direction, not a NaN.
TEST(RmsNormalize, HasADerivativeAtZero) {
  const at::Tensor x = at::zeros({2, 3}, at::kDouble).requires_grad_();
  const at::Tensor dx = at::arange(6, at::kDouble).view({2, 3}).requires_grad_();
  const std::vector<int64_t> dims = {1};
  const Dual y = ops::rms_normalize({x, dx}, dims, 1e-2);
  EXPECT_TRUE(at::allclose(y.tangent, dx * 100));
  (y.value.sum() + y.tangent.sum()).backward();
  EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
  EXPECT_TRUE(at::allclose(dx.grad(), at::full_like(dx, 100)));
}

// --- behaviour ------------------------------------------------------------------------

const char* const kSmallEdm2 =
    R"({"type": "edm2", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
        "attn_resolutions": [4], "channels_per_head": 8)";

void shake_edm2(Network& network) {
  const at::NoGradGuard no_grad;
  for (auto& item : network.named_parameters())
    if (item.key() != "emb_gap_gain")
      item.value().add_(draw_init(17, item.key(), item.value().sizes(), 1, 1,
                                  InitMode::kaiming_normal).mul_(0.1));
}

// Activations keep their magnitude: unit variance in, unit variance in every feature map.
TEST(Edm2, MagnitudesAreKept) {
  const auto network = make_network(
      Config::from_text(R"({"type": "edm2", "model_channels": 32,
          "attn_resolutions": [8], "channel_mult": [1, 2], "num_blocks": 2})", "test"),
      {{3, 16, 16}, 0, 1, 0});
  std::map<std::string, at::Tensor> taps;
  Context ctx;
  ctx.taps = &taps;
  const at::Tensor x = draw_init(3, "x", {16, 3, 16, 16}, 1, 1, InitMode::kaiming_normal);
  const at::Tensor out =
      network->forward(Dual(x), Dual(at::linspace(-1, 1, 16)), {}, {}, ctx).value;
  EXPECT_EQ(out.abs().max().item<float>(), 0);  // out_gain starts at zero
  EXPECT_EQ(taps.size(), 16u);
  for (const auto& [name, map] : taps) {
    const double size = map.square().mean().sqrt().item<double>();
    EXPECT_GT(size, 0.6) << name;
    EXPECT_LT(size, 1.4) << name;
  }
}

// On the diagonal, two-time networks are the one-time network of the same weights: s_t and
// encoder_decoder always, s_gap as long as its gain is zero, for every gap.
TEST(Edm2, TwoTimeFormsStartAsTheOneTimeNetwork) {
  const std::string head = kSmallEdm2;
  const NetworkShape one_shape{{1, 8, 8}, 2, 1, 0}, two_shape{{1, 8, 8}, 2, 2, 0};
  const auto one = make_network(Config::from_text(head + "}", "test"), one_shape);
  shake_edm2(*one);
  for (const std::string form : {"s_gap", "s_t", "encoder_decoder"}) {
    const bool gap = form == "s_gap";
    const auto two = make_network(
        Config::from_text(head + R"(, "time_embedding": ")" + form + "\"}", "test"),
        two_shape);
    shake_edm2(*two);
    EXPECT_EQ(two->second_time_is_gap(), gap);
    EXPECT_EQ(two->default_time_scale(), 1);
    EXPECT_EQ(two->parameters().size(), one->parameters().size() + (gap ? 2u : 0u));
    auto weights = two->named_parameters();
    for (const auto& item : one->named_parameters()) {
      ASSERT_TRUE(weights.contains(item.key())) << item.key();
      EXPECT_TRUE(at::equal(weights[item.key()], item.value())) << item.key();
    }
    const at::Tensor x = at::sin(at::arange(192, at::kFloat)).view({3, 1, 8, 8});
    const at::Tensor s = at::tensor({0.0f, 0.3f, 1.0f});
    const at::Tensor second = gap ? at::tensor({0.5f, 0.0f, 0.2f}) : s;
    Condition c;
    c.class_labels = at::eye(2).index_select(0, at::tensor({0, 1, 1}));
    Context ctx;
    const at::Tensor expected = one->forward(Dual(x), Dual(s), {}, c, ctx).value;
    const auto run = [&](const at::Tensor& time2) {
      return two->forward(Dual(x), Dual(s), Dual(time2), c, ctx).value;
    };
    EXPECT_LT(relative_error(run(second), expected), 1e-6) << form;
    EXPECT_GT(expected.abs().max().item<float>(), 0);
    if (gap) {
      const at::NoGradGuard no_grad;
      weights["emb_gap_gain"].fill_(0.5);
    }
    EXPECT_GT(relative_error(run(second + 0.4), expected), 1e-3) << form;
  }
}

// Stored weights become normalised ones; what the network computes stays, to eps.
TEST(Edm2, ProjectionNormalisesEveryMatrixAndChangesNothing) {
  const Config spec = Config::from_text(
      R"({"network": )" + std::string(kSmallEdm2) + R"(},
          "preconditioning": {"type": "edm2"}, "sample_shape": [1, 8, 8]})", "test");
  const auto model = make_model(spec, 3);
  shake_edm2(dynamic_cast<Network&>(*model->named_children()["model"]));
  const at::NoGradGuard no_grad;
  for (at::Tensor& p : model->parameters())
    if (p.dim() > 1) p.mul_(3);
  const at::Tensor x = at::sin(at::arange(128, at::kFloat)).view({2, 1, 8, 8});
  const at::Tensor sigma = at::tensor({0.5f, 2.0f});
  Context ctx;
  const auto denoise = [&] { return model->denoise(Dual(x), Dual(sigma), {}, ctx).value; };
  const at::Tensor before = denoise(), u = model->log_variance(sigma);
  model->project();
  for (const auto& item : model->named_parameters()) {
    const at::Tensor& p = item.value();
    if (p.dim() < 2) continue;
    const at::Tensor rms = p.flatten(1).square().mean(1).sqrt();
    EXPECT_LT((rms - 1).abs().max().item<double>(), 2e-4) << item.key();
  }
  EXPECT_LT(relative_error(denoise(), before), 2e-3);
  EXPECT_LT(relative_error(model->log_variance(sigma), u), 2e-3);
}

TEST(Edm2, ProjectionReachesTheNormalisedLogWeightOnly) {
  for (const bool normalized : {false, true}) {
    const Config spec = Config::from_text(
        std::string(R"({"network": {"type": "mlp", "width": 4}, "sample_shape": [2],
            "preconditioning": {"two_times": true, "log_weight": true,
                                "log_weight_normalized": )") +
            (normalized ? "true}}" : "false}}"), "test");
    const auto model = make_model(spec, 3);
    const std::string name = normalized ? "logvar_linear.weight" : "log_weight.vector";
    at::Tensor w = model->named_parameters()[name];
    EXPECT_EQ(w.abs().max().item<double>() > 0, normalized);
    const at::NoGradGuard no_grad;
    w.fill_(0.25);
    model->project();
    EXPECT_NEAR(w.flatten()[0].item<double>(), normalized ? 0.9996 : 0.25, 1e-5);
  }
}

TEST(Edm2, OptionsAreChecked) {
  const auto make = [](const std::string& assignments, const NetworkShape& shape) {
    Config options = Config::from_text(std::string(kSmallEdm2) + "}", "test");
    for (std::size_t from = 0, to; from < assignments.size(); from = to + 1) {
      to = std::min(assignments.find(' ', from), assignments.size());
      options.set_override(assignments.substr(from, to - from), "test");
    }
    auto network = make_network(options, shape);
    options.check_all_read();
    return network;
  };
  const auto refused = [&](const std::string& assignments, const NetworkShape& shape,
                           const std::string& about) {
    try {
      make(assignments, shape);
      ADD_FAILURE() << assignments << " was taken";
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(about), std::string::npos) << error.what();
    }
  };
  const NetworkShape image{{1, 8, 8}, 0, 1, 0};
  refused("", {{2}, 0, 1, 0}, "images");
  refused("", {{1, 7, 8}, 0, 1, 0}, "channel_mult");
  refused("preset=XXXL", image, "preset");
  refused("time_embedding=s_t", image, "time_embedding");  // of two times
  refused("channels_per_head=5", image, "channels_per_head");  // 16 in 3 heads
  refused("resample_filter=[1,2,1]", image, "resample_filter");
  // A width beside a preset wins.
  EXPECT_EQ(parameter_count(*make("preset=S", image)), parameter_count(*make("", image)));
  // Positional embeddings need scaled times, Fourier features do not.
  const NetworkShape two{{1, 8, 8}, 0, 2, 0};
  EXPECT_EQ(make("time_embedding=flow_maps", two)->default_time_scale(), 16);
  EXPECT_EQ(make("time_embedding=flow_maps embedding_type=fourier", two)
                ->default_time_scale(), 1);
}

TEST(Edm2, DropoutFollowsTheContext) {
  const auto network = make_network(
      Config::from_text(std::string(kSmallEdm2) +
                            R"(, "dropout": 0.4, "label_dropout": 0.5})", "test"),
      {{1, 8, 8}, 3, 1, 0});
  shake_edm2(*network);
  const at::Tensor x = at::sin(at::arange(256, at::kFloat)).view({4, 1, 8, 8});
  Condition c;
  c.class_labels = at::eye(3).index_select(0, at::tensor({0, 1, 2, 0}));
  const Draw first(1, 0, 4), same(1, 0, 4), later(1, 4, 4);
  const auto run = [&](bool train, const Draw* draw, bool checkpoint = false) {
    Context ctx;
    ctx.train = train;
    ctx.draw = draw;
    ctx.gradient_checkpointing = checkpoint;
    return network->forward(Dual(x), Dual(at::zeros({4})), {}, c, ctx).value;
  };
  const at::Tensor plain = run(false, nullptr), dropped = run(true, &first);
  EXPECT_TRUE(at::equal(run(false, &first), plain));
  EXPECT_TRUE(at::equal(run(true, nullptr), plain));
  EXPECT_FALSE(at::allclose(dropped, plain));
  EXPECT_TRUE(at::equal(run(true, &same), dropped));
  EXPECT_LT(relative_error(run(true, &same, true), dropped), 1e-5);
  EXPECT_FALSE(at::allclose(run(true, &later), dropped));
}

}  // namespace
}  // namespace flowmap
