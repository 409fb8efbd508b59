// ADM and the preconditionings of discrete noise levels, against numbers made by EDM's own
// programs and closed forms.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/denoiser.h"
#include "flowmap/model.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/layers.h"
#include "flowmap/ops.h"
#include "flowmap/preconditioning.h"
#include "tests/flowmap/edm_reference.h"
#include "tests/support/network_reference.h"

namespace flowmap {
namespace {

using testing::kDoubleBound;
using testing::NetworkReference;
using testing::relative_error;

class AdmReference : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { FM_NEED_FILE(testing::network_file(GetParam())); }
};

TEST_P(AdmReference, OutputsAgree) {
  const NetworkReference reference(GetParam());
  auto model = testing::load_edm_model(reference);
  if (HasFatalFailure()) return;
  testing::check_edm_outputs(reference, *model);
}

INSTANTIATE_TEST_SUITE_P(Edm, AdmReference,
                         ::testing::Values("edm_adm_cond_augment", "iddpm_adm_small",
                                           "edm_snapshot_adm"),
                         [](const auto& one) { return std::string(one.param); });

TEST(Adm, DerivativesAgree) {
  FM_NEED_FILE(testing::network_file("edm_adm_cond_augment"));
  const NetworkReference reference("edm_adm_cond_augment");
  auto model = testing::load_edm_model(reference);
  if (HasFatalFailure()) return;
  testing::check_edm_derivatives(reference, *model, 1.6e-5);
}

TEST(Adm, ParameterCountsOfPublishedConfigurations) {
  const testing::CountCase cases[] = {
      {"ImageNet-64 cond ADM", R"({"network": {"type": "adm"},
        "sample_shape": [3, 64, 64], "label_dim": 1000})", 295899267, 541, 48},
      {"SlimFlow ImageNet-64 80.7M", R"({"network": {"type": "adm", "model_channels": 128,
        "channel_mult": [1, 2, 2, 4], "num_blocks": 2, "attn_resolutions": [32, 16]},
        "sample_shape": [3, 64, 64], "label_dim": 1000})", 80685315, 385, 48},
      {"SlimFlow ImageNet-64 44.7M", R"({"network": {"type": "adm", "model_channels": 128,
        "channel_mult": [1, 2, 2, 2], "num_blocks": 2, "attn_resolutions": [32, 16]},
        "sample_shape": [3, 64, 64], "label_dim": 1000})", 44685827, 383, 48},
  };
  for (const testing::CountCase& c : cases) testing::check_counts(c);
}

// Counted again from the weights, as for SongUNet. No block of 8 channels has a head.
TEST(Adm, MultiplyAddsAreCounted) {
  const auto network = build_network(
      Config::from_text(R"({"type": "adm", "model_channels": 8, "channel_mult": [1, 8],
                            "num_blocks": 1, "attn_resolutions": [8, 4]})", "test"),
      {{3, 8, 8}, 5, 1, 0});
  double expected = 0;
  for (const auto& item : network->named_parameters()) {
    const at::Tensor& p = item.value();
    const double pixels = item.key().find("4x4") != std::string::npos ? 16 : 64;
    if (p.dim() == 2) expected += static_cast<double>(p.numel());
    if (p.dim() == 4) expected += static_cast<double>(p.numel()) * pixels;
    if (item.key().ends_with("proj.weight"))
      expected += 2 * pixels * pixels * static_cast<double>(p.size(0));
  }
  // Filters of 2x2 taps in conv0 and skip, on the 4x4 side; 8 channels go down, 64 up.
  expected += 2 * 4 * 16 * (8 + 64);
  EXPECT_EQ(network->multiply_adds(), expected);
}

// EDM's rules: uniform (kaiming) at sqrt(1/3), biases too; labels normal at
// sqrt(label_dim), that is of unit deviation; zeros where the network should start at 0.
TEST(Adm, InitialisationFollowsEdmsRules) {
  const auto network = make_network(
      Config::from_text(R"({"type": "adm", "model_channels": 64, "channel_mult": [1],
                            "num_blocks": 1, "augment_dim": 9, "attn_resolutions": [8]})",
                        "test"),
      {{3, 8, 8}, 10, 1, 0});
  auto p = network->named_parameters();
  const auto bound = [&](const char* name, double fan_in) {
    const double top = std::sqrt(1 / fan_in);
    const at::Tensor w = p[name];
    EXPECT_LE(w.abs().max().item<double>(), top * (1 + 1e-6)) << name;
    EXPECT_GT(w.abs().max().item<double>(), top * 0.95) << name;
  };
  bound("enc.8x8_block0.conv0.weight", 64 * 9);
  bound("enc.8x8_block0.conv0.bias", 64 * 9);
  bound("enc.8x8_block0.qkv.weight", 64);
  bound("map_layer0.weight", 64);
  EXPECT_NEAR(p["map_label.weight"].std().item<double>(), 1, 0.05);
  for (const char* name : {"enc.8x8_block0.conv1.weight", "enc.8x8_block0.conv1.bias",
                           "dec.8x8_in0.proj.weight", "map_augment.weight",
                           "out_conv.weight", "out_conv.bias"})
    EXPECT_EQ(p[name].abs().max().item<double>(), 0) << name;
}

TEST(Adm, NarrowBlocksHaveNoHeads) {
  const Config options = Config::from_text(
      R"({"type": "adm", "model_channels": 32, "channel_mult": [1, 2, 4],
          "num_blocks": 1, "attn_resolutions": [8, 4, 2]})", "test");
  const auto network = build_network(options, {{1, 8, 8}, 0, 1, 0});
  const auto p = network->named_parameters();
  EXPECT_FALSE(p.contains("enc.8x8_block0.qkv.weight"));
  EXPECT_TRUE(p.contains("enc.4x4_block0.qkv.weight"));
  EXPECT_TRUE(p.contains("dec.2x2_in0.qkv.weight"));
  EXPECT_TRUE(p.contains("dec.4x4_block0.qkv.weight"));
  EXPECT_THROW(build_network(options, {{1, 6, 8}, 0, 1, 0}), UsageError);
}

Config empty_options() { return Config::from_text("{}", "test"); }

TEST(Iddpm, TableAndRoundingAgree) {
  FM_NEED_FILE(testing::network_file("edm_layers"));
  const NetworkReference reference("edm_layers");
  const DenoiserRule rule = iddpm_rule(empty_options());
  const at::Tensor u = reference.at("iddpm.u");
  // Bit for bit up to the last digit of sin, which the recursion carries along.
  EXPECT_LT(((rule.levels - u).abs() / u.clamp_min(1e-6)).max().item<double>(), 2e-5);
  EXPECT_EQ(rule.levels[1000].item<float>(), 0);
  EXPECT_NEAR(rule.about.sigma_min, 0.006422337144613266, 1e-7);
  EXPECT_NEAR(rule.about.sigma_max, 20291.171875, 0.3);
  const at::Tensor sigma = reference.at("iddpm.in.sigma");
  EXPECT_TRUE(at::equal(nearest_level(sigma, rule.levels),
                        reference.at("iddpm.round_sigma_index")));
  EXPECT_TRUE(at::equal(nearest_level(sigma, u), reference.at("iddpm.round_sigma_index")));

  const auto model = make_model(
      Config::from_text(R"({"network": {"type": "mlp"}, "sample_shape": [2],
                            "preconditioning": {"type": "iddpm"}})", "test"), 0);
  ASSERT_TRUE(model->named_buffers().contains("u"));
  {
    const at::NoGradGuard no_grad;
    model->named_buffers()["u"].copy_(u);  // as loading a file does
  }
  EXPECT_TRUE(at::equal(model->round_sigma(sigma), reference.at("iddpm.round_sigma")));
  // Any shape and type; ties go to the larger sigma, the first in the table.
  const at::Tensor tie = (u[10] + u[11]).to(at::kDouble).div(2);
  const at::Tensor grid = at::stack({tie, u[10].to(at::kDouble)}).view({2, 1});
  const at::Tensor rounded = model->round_sigma(grid);
  EXPECT_EQ(rounded.sizes(), grid.sizes());
  EXPECT_EQ(rounded.scalar_type(), at::kDouble);
  EXPECT_EQ(rounded[1].item<double>(), u[10].item<double>());
  EXPECT_EQ(nearest_level(at::full({1}, 1.5), at::tensor({3.f, 2.f, 1.f, 0.f}))
                .item<int64_t>(), 1);
}

TEST(Vp, SigmaAndItsInverseAgree) {
  FM_NEED_FILE(testing::network_file("edm_layers"));
  const NetworkReference reference("edm_layers");
  const at::Tensor t = reference.at("vp_sigma.in.t").to(at::kDouble);
  const at::Tensor expected = reference.at("vp_sigma.out_f64");
  for (int64_t i = 0; i < t.numel(); ++i) {
    Config options = empty_options();
    const double time = t[i].item<double>();
    if (time < 1) options.set_override("epsilon_t=" + std::to_string(time), "test");
    const ModelInfo about = vp_rule(options).about;
    // to_string keeps six decimals of t; sigma' / sigma stays below 25.
    EXPECT_NEAR((time < 1 ? about.sigma_min : about.sigma_max) /
                    expected[i].item<double>(), 1, time < 0.01 ? 1e-6 : 1e-5);
  }
  const at::Tensor sigma = reference.at("vp_sigma_inv.in.sigma").to(at::kDouble);
  const Dual index = vp_rule(empty_options()).scalings(Dual(sigma)).c_noise;
  EXPECT_LT(relative_error(index.value / 999, reference.at("vp_sigma_inv.out_f64")),
            kDoubleBound);
}

// Says a x + b time on the sample's channels, nonsense on the others.
class AffineNoise : public Network {
 public:
  explicit AffineNoise(int64_t extra) : extra_(extra) {
    a_ = register_parameter("a", at::full({1}, 0.3, at::kDouble));
  }
  Dual forward(const Dual& x, const Dual& time, const Dual&, const Condition&,
               Context&) override {
    const Dual f = x * Dual(a_) + ops::scale(ops::column(time, x.value.dim()), 0.01);
    if (extra_ == 0) return f;
    std::vector<int64_t> size = x.value.sizes().vec();
    size[1] = extra_;
    const std::vector<Dual> parts = {f, Dual(at::full(size, 1e9, at::kDouble))};
    return ops::cat(parts, 1);
  }
  double multiply_adds() const override { return 0; }

 private:
  int64_t extra_;
  at::Tensor a_;
};

Config ddpm_spec(const std::string& more) {
  return Config::from_text(
      R"({"sample_shape": [3, 2, 2], "preconditioning": {"type": "ddpm")" + more + "}}",
      "test");
}
std::shared_ptr<Model> ddpm_stub(const std::string& more, int64_t extra) {
  const Config spec = ddpm_spec(more);
  return make_denoiser(std::make_shared<AffineNoise>(extra),
                       ddpm_rule(spec.child("preconditioning")), spec);
}

// abar_k as the plain product of 1 - beta.
std::vector<double> alpha_bars(double from, double to, int64_t count) {
  std::vector<double> bars;
  double bar = 1;
  for (int64_t k = 0; k < count; ++k) {
    bar *= 1 - (from + (to - from) * static_cast<double>(k) /
                           static_cast<double>(count - 1));
    bars.push_back(bar);
  }
  return bars;
}

TEST(Ddpm, AgreesWithItsClosedForm) {
  for (const int64_t extra : {0, 3}) {
    const auto model = ddpm_stub("", extra);
    const std::vector<double> bars = alpha_bars(1e-4, 0.02, 1000);
    const auto sigma_of = [&](int64_t k) {
      const double bar = bars[static_cast<std::size_t>(k)];
      return std::sqrt((1 - bar) / bar);
    };
    EXPECT_NEAR(model->info().sigma_min / sigma_of(0), 1, 1e-10);
    EXPECT_NEAR(model->info().sigma_max / sigma_of(999), 1, 1e-10);
    // On the table the index is k; between, linear in log sigma; outside, the end.
    const std::vector<double> index = {0, 1, 500, 999, 250.25, 998.5, 0, 999};
    std::vector<double> sigmas;
    for (const double k : index) {
      const double low = std::floor(k), part = k - low;
      const auto j = static_cast<int64_t>(low);
      sigmas.push_back(part == 0 ? sigma_of(j)
                                 : std::pow(sigma_of(j), 1 - part) *
                                       std::pow(sigma_of(j + 1), part));
    }
    sigmas[6] *= 0.5;
    sigmas[7] *= 2;
    const int64_t rows = static_cast<int64_t>(index.size());
    const at::Tensor sigma = at::tensor(sigmas, at::kDouble);
    const at::Tensor k = at::tensor(index, at::kDouble).view({rows, 1, 1, 1});
    const at::Tensor x = at::sin(at::arange(rows * 12, at::kDouble)).view({rows, 3, 2, 2});
    Context ctx;
    const at::Tensor got = model->denoise(Dual(x), Dual(sigma), {}, ctx).value;
    // x_t = sqrt(abar) x + sqrt(1 - abar) n, so D = (x_t - sqrt(1-abar) eps) / sqrt(abar)
    // with x_t = sqrt(abar) x_sigma and abar = 1 / (1 + sigma^2).
    const at::Tensor s = sigma.view({rows, 1, 1, 1});
    const at::Tensor root = (1 / (1 + s.square())).sqrt();
    const at::Tensor eps = 0.3 * (root * x) + 0.01 * k;
    const at::Tensor expected = (root * x - (1 - root.square()).sqrt() * eps) / root;
    EXPECT_LT(relative_error(got, expected), 1e-9);
    EXPECT_TRUE(at::equal(model->round_sigma(sigma), sigma));
  }
}

TEST(Ddpm, TangentOfTheIndexIsItsSlope) {
  const auto model = ddpm_stub("", 0);
  const at::Tensor x = at::sin(at::arange(24, at::kDouble)).view({2, 3, 2, 2});
  const at::Tensor sigma = at::tensor({0.7, 12.0}, at::kDouble), ds = sigma * 0.4;
  Context ctx;
  const Dual out = model->denoise(Dual(x), Dual(sigma, ds), {}, ctx);
  const auto at_step = [&](double h) {
    return model->denoise(Dual(x), Dual(sigma + h * ds), {}, ctx).value;
  };
  EXPECT_LT(relative_error(out.tangent, (at_step(1e-6) - at_step(-1e-6)) / 2e-6), 1e-7);
}

TEST(Ddpm, RoundsToTheNearestLevel) {
  const std::string options =
      R"(, "round": true, "beta_start": 0.1, "beta_end": 0.5, "M": 5)";
  const DenoiserRule rule =
      ddpm_rule(ddpm_spec(options).child("preconditioning"));
  std::vector<double> sigma;
  for (const double bar : alpha_bars(0.1, 0.5, 5))
    sigma.push_back(std::sqrt((1 - bar) / bar));
  const std::vector<double> ask = {0.01, sigma[2] * 1.01, 0.45 * sigma[3] + 0.55 * sigma[4],
                                   100};
  const std::vector<int64_t> nearest = {0, 2, 4, 4};
  const at::Tensor asked = at::tensor(ask, at::kDouble);
  EXPECT_TRUE(at::equal(rule.scalings(Dual(asked)).c_noise.value,
                        at::tensor(nearest).to(at::kDouble)));
  const auto model = ddpm_stub(options, 0);
  for (std::size_t i = 0; i < ask.size(); ++i)
    EXPECT_NEAR(model->round_sigma(asked)[static_cast<int64_t>(i)].item<double>(),
                sigma[static_cast<std::size_t>(nearest[i])], 1e-12);
  EXPECT_FALSE(model->named_buffers().contains("u"));
}

// A variance that the network learned besides is no part of any view.
TEST(LearnedVariance, IsDroppedByEveryPreconditioning) {
  const Config spec = ddpm_spec("");
  const at::Tensor x = at::ones({2, 3, 2, 2}, at::kDouble);
  const at::Tensor sigma = at::tensor({0.3, 2.0}, at::kDouble);
  for (const auto& rule : {edm_rule, vp_rule, ve_rule, iddpm_rule, ddpm_rule}) {
    const auto answer = [&](int64_t extra) {
      Context ctx;
      return make_denoiser(std::make_shared<AffineNoise>(extra), rule(empty_options()),
                           spec)
          ->denoise(Dual(x), Dual(sigma), {}, ctx).value;
    };
    EXPECT_TRUE(at::equal(answer(3), answer(0)));
    EXPECT_TRUE(at::equal(answer(1), answer(0)));
  }
}

}  // namespace
}  // namespace flowmap
