// Training times, the interpolant, and the scope of reduced precision.
#include "flowmap/time_sampling.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>

#include <cmath>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/interpolant.h"
#include "flowmap/precision.h"
#include "tests/support/training_reference.h"

namespace flowmap {
namespace {

using testing::difference;

constexpr int64_t kMany = 100'000;

double mean_of(const at::Tensor& x) { return x.to(at::kDouble).mean().item<double>(); }

TEST(TimeSampler, UniformFillsItsRange) {
  const Draw draw(1, 0, kMany);
  const at::Tensor t = TimeSampler{.low = 0.2, .high = 0.6}.sample(draw, "time");
  EXPECT_EQ(t.sizes(), (std::vector<int64_t>{kMany}));
  EXPECT_GE(t.min().item<double>(), 0.2 - 1e-7);
  EXPECT_LE(t.max().item<double>(), 0.6 + 1e-7);
  EXPECT_NEAR(mean_of(t), 0.4, 2e-3);
  EXPECT_NEAR(mean_of((t - 0.4).square()), 0.16 / 12, 2e-4);
}

// The share below t is Phi((logit t - mean) / std).
TEST(TimeSampler, LogitNormalQuantiles) {
  const Draw draw(1, 0, kMany);
  const TimeSampler sampler{.rule = TimeSampler::Rule::logit_normal, .mean = -0.6,
                            .std = 1.6};
  const at::Tensor t = sampler.sample(draw, "time");
  for (const double level : {0.05, 0.3, 0.5, 0.9}) {
    const double z = (std::log(level / (1 - level)) + 0.6) / 1.6;
    EXPECT_NEAR(mean_of(t.lt(level)), 0.5 * std::erfc(-z / std::sqrt(2.0)), 6e-3) << level;
  }
  TimeSampler clamped = sampler;
  clamped.low = 0.1;
  clamped.high = 0.5;
  const at::Tensor inside = clamped.sample(draw, "time");
  EXPECT_FLOAT_EQ(inside.min().item<float>(), 0.1f);
  EXPECT_FLOAT_EQ(inside.max().item<float>(), 0.5f);
}

TEST(TimeSamplerReference, LogitNormalOfTheNormalDraw) {
  FM_NEED_METHOD_REFERENCE("training");
  const testing::MethodReference reference("training");
  // The map from a normal to a time is the file's; the normals are the draw's own.
  const Draw draw(3, 0, 64);
  const TimeSampler sampler{.rule = TimeSampler::Rule::logit_normal, .mean = -0.4};
  EXPECT_LT(difference(sampler.sample(draw, "time"),
                       (draw.normal("time", {}).to(at::kDouble) - 0.4).sigmoid()), 1e-6);
  EXPECT_LT(difference((reference.at("time_samplers/normal") - 0.4).sigmoid(),
                       reference.at("time_samplers/logit_normal_-0.4_1.0")), 1e-12);
}

TEST(TimeSampler, IsReadAndChecked) {
  const auto read = [](const char* text) {
    return read_time_sampler(Config::from_text(text, "test"));
  };
  EXPECT_EQ(read("{}").rule, TimeSampler::Rule::uniform);
  const TimeSampler sampler = read(R"({"type": "logit_normal", "mean": -1, "std": 2})");
  EXPECT_EQ(sampler.rule, TimeSampler::Rule::logit_normal);
  EXPECT_EQ(sampler.mean, -1);
  EXPECT_EQ(sampler.std, 2);
  EXPECT_THROW(read(R"({"type": "beta"})"), UsageError);
  EXPECT_THROW(read(R"({"low": 0.5, "high": 0.5})"), UsageError);
  EXPECT_THROW(read(R"({"low": -0.1})"), UsageError);
}

// Uniform on the triangle: E h = 1/3, E h^2 = 1/6, E s = 1/3.
TEST(TimePairSampler, IsUniformOnTheTriangle) {
  const Draw draw(2, 0, kMany);
  const auto [s, t] = TimePairSampler{}.sample(draw, "pair");
  EXPECT_GE((t - s).min().item<double>(), 0);
  EXPECT_NEAR(mean_of(t - s), 1.0 / 3, 3e-3);
  EXPECT_NEAR(mean_of((t - s).square()), 1.0 / 6, 3e-3);
  EXPECT_NEAR(mean_of(s), 1.0 / 3, 3e-3);
  EXPECT_LT(mean_of(s.eq(0)), 1e-3);
}

TEST(TimePairSampler, StartsAtNoiseAsOftenAsAsked) {
  const Draw draw(2, 0, kMany);
  const auto [s, t] = TimePairSampler{.zero_probability = 0.3}.sample(draw, "pair");
  EXPECT_NEAR(mean_of(s.eq(0)), 0.3, 6e-3);
  // The other pairs and all t are those of the plain sampler.
  const auto plain = TimePairSampler{}.sample(draw, "pair");
  EXPECT_TRUE(at::equal(t, plain.t));
  EXPECT_TRUE(at::equal(at::where(s.eq(0), s, plain.s), s));
}

TEST(Interpolant, EndsAndMiddle) {
  const at::Tensor x1 = at::tensor({2.0, -4.0}, at::kDouble).reshape({2, 1, 1, 1});
  const at::Tensor n = at::tensor({1.0, 3.0}, at::kDouble).reshape({2, 1, 1, 1});
  const auto at_time = [&](double t) {
    return interpolate(x1, n, at::full({2}, t, at::kDouble), 0.5);
  };
  EXPECT_TRUE(at::equal(at_time(0).x, n * 0.5));
  EXPECT_LT(difference(at_time(1).x, x1), 1e-15);
  EXPECT_LT(difference(at_time(0.25).x, 0.75 * 0.5 * n + 0.25 * x1), 1e-15);
  EXPECT_TRUE(at::equal(at_time(0.25).target, x1 - 0.5 * n));
  EXPECT_EQ(at_time(0.25).x.sizes(), x1.sizes());
}

at::ScalarType product_type() {
  const at::Tensor a = at::ones({2, 2});
  return at::matmul(a, a).scalar_type();
}

TEST(AutocastGuard, NestsAndRestores) {
  EXPECT_EQ(product_type(), at::kFloat);
  {
    const AutocastGuard outer(at::kCPU, at::kBFloat16);
    EXPECT_EQ(product_type(), at::kBFloat16);
    {
      const AutocastGuard inner(at::kCPU, at::kFloat);  // where exact tangents are due
      EXPECT_EQ(product_type(), at::kFloat);
    }
    EXPECT_EQ(product_type(), at::kBFloat16);
  }
  EXPECT_EQ(product_type(), at::kFloat);
}

// Casts of weights are kept inside the outermost scope only: an update must be seen by
// the next one.
TEST(AutocastGuard, ForgetsCastsOfOldWeights) {
  const at::Tensor w = at::ones({2, 2}).requires_grad_();
  const auto product = [&] {
    const AutocastGuard guard(at::kCPU, at::kBFloat16);
    return at::matmul(at::ones({2, 2}), w)[0][0].item<float>();
  };
  EXPECT_EQ(product(), 2);
  {
    const at::NoGradGuard no_grad;
    w.fill_(3);
  }
  EXPECT_EQ(product(), 6);
}

TEST(Precision, IsParsed) {
  EXPECT_EQ(parse_precision("bf16", "x").type, at::kBFloat16);
  EXPECT_EQ(parse_precision("float32", "x").type, at::kFloat);
  EXPECT_EQ(parse_precision("float64", "x").weights(), at::kDouble);
  EXPECT_EQ(parse_precision("bf16", "x").weights(), at::kFloat);
  EXPECT_TRUE(parse_precision("tf32", "x").tf32);
  EXPECT_FALSE(parse_precision("float32", "x").tf32);
  EXPECT_THROW(parse_precision("fp16", "trainer.precision"), UsageError);
  for (const char* name : {"float32", "tf32", "bf16", "float64"})
    EXPECT_EQ(precision_name(parse_precision(name, "x")), name);
  EXPECT_EQ(precision_name({}, true), "fp32");
}

TEST(PrecisionGuard, SwitchesTf32InsideOnly) {
  at::Context& settings = at::globalContext();
  settings.setAllowTF32CuBLAS(false);
  {
    const PrecisionGuard fast(at::kCPU, parse_precision("tf32", "x"));
    EXPECT_TRUE(settings.allowTF32CuBLAS());
    EXPECT_TRUE(settings.allowTF32CuDNN());
    {
      const PrecisionGuard exact(at::kCPU, {});  // Jacobian-vector products
      EXPECT_FALSE(settings.allowTF32CuBLAS());
      EXPECT_FALSE(settings.allowTF32CuDNN());
    }
    EXPECT_TRUE(settings.allowTF32CuBLAS());
    EXPECT_EQ(product_type(), at::kFloat);
  }
  EXPECT_FALSE(settings.allowTF32CuBLAS());
}

}  // namespace
}  // namespace flowmap
