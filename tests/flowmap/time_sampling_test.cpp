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

// Lee et al. 2024: cdf 1/2 + sinh(a (t - 1/2)) / (2 sinh(a/2)), by Kolmogorov and Smirnov.
TEST(TimeSampler, UShapeFollowsItsDistribution) {
  for (const double a : {4.0, 2.0}) {
    const TimeSampler sampler{.rule = TimeSampler::Rule::u_shape, .a = a};
    const at::Tensor t =
        std::get<0>(sampler.sample(Draw(1, 0, kMany), "time").to(at::kDouble).sort());
    const at::Tensor cdf = 0.5 + (a * (t - 0.5)).sinh() / (2 * std::sinh(a / 2));
    const at::Tensor rank = (at::arange(kMany, at::kDouble) + 0.5) / kMany;
    // A tenth of a percent of samples of this size differ by more.
    EXPECT_LT((cdf - rank).abs().max().item<double>(), 1.95 / std::sqrt(1.0 * kMany)) << a;
    if (a != 4) continue;
    EXPECT_NEAR(mean_of(t), 0.5, 4e-3);
    EXPECT_NEAR(mean_of((t - 0.5).square()), .115671, 1e-3);
    EXPECT_NEAR(mean_of(t.lt(0.1)), .172503, 4e-3);
  }
}

TEST(TimeSampler, MirroredTimesComeInPairs) {
  for (const char* rule : {"uniform", "u_shape"}) {
    const TimeSampler sampler = read_time_sampler(Config::from_text(
        std::string(R"({"mirrored": true, "low": 1e-3, "type": ")") + rule + "\"}", "test"));
    const Draw draw(1, 0, 64);
    const at::Tensor t = sampler.sample(draw, "time");
    const at::Tensor pairs = t.view({-1, 2});
    EXPECT_LT((pairs.sum(1) - 1.001).abs().max().item<double>(), 1e-6) << rule;
    EXPECT_GT(pairs.select(1, 0).std().item<double>(), 0.1);
    // A part of the step draws its part; a part that cuts a pair is refused.
    EXPECT_TRUE(at::equal(sampler.sample(draw.slice(8, 16), "time", 8), t.slice(0, 8, 16)));
    EXPECT_THROW(sampler.sample(draw.slice(7, 15), "time", 7), UsageError);
    EXPECT_THROW(sampler.sample(draw.slice(8, 15), "time", 8), UsageError);
  }
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

// EDM's noise levels: t = 1 / (1 + sigma), ln sigma ~ N(P_mean, P_std^2).
TEST(TimeSamplerReference, LognormalNoiseLevels) {
  FM_NEED_METHOD_REFERENCE("training");
  const testing::MethodReference reference("training");
  const struct { const char* name; double mean, std; } cases[] = {
      {"-1.2_1.2", -1.2, 1.2}, {"-0.4_1.0", -0.4, 1}, {"-0.8_1.6", -0.8, 1.6}};
  for (const auto& item : cases) {
    const TimeSampler sampler = read_time_sampler(Config::from_text(
        R"({"type": "lognormal", "P_mean": )" + std::to_string(item.mean) +
            R"(, "P_std": )" + std::to_string(item.std) + "}", "test"));
    EXPECT_EQ(sampler.rule, TimeSampler::Rule::logit_normal);
    const at::Tensor sigma =
        reference.at(std::string("time_samplers/lognormal_") + item.name);
    // Our normal is minus theirs.
    const at::Tensor t =
        (sampler.mean - sampler.std * reference.at("time_samplers/normal")).sigmoid();
    EXPECT_LT(difference(t, 1 / (1 + sigma)), 1e-12) << item.name;
  }
}

TEST(TimeSampler, LognormalQuantiles) {
  const TimeSampler sampler =
      read_time_sampler(Config::from_text(R"({"type": "lognormal"})", "test"));
  const at::Tensor t = sampler.sample(Draw(1, 0, kMany), "time");
  const at::Tensor log_sigma = (1 / t - 1).log().to(at::kDouble);
  EXPECT_NEAR(mean_of(log_sigma), -1.2, 0.02);
  EXPECT_NEAR(log_sigma.std().item<double>(), 1.2, 0.02);
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

TEST(TimePairSamplerReference, TriangleOfTwoUniforms) {
  FM_NEED_METHOD_REFERENCE("training");
  const testing::MethodReference reference("training");
  const at::Tensor p = reference.at("triangle/p"), q = reference.at("triangle/q");
  EXPECT_TRUE(at::equal(at::minimum(p, q), reference.at("triangle/s")));
  EXPECT_TRUE(at::equal(at::maximum(p, q), reference.at("triangle/t")));
  const Draw draw(3, 0, 64);  // that is what becomes of the draw's own uniforms
  const auto [s, t] = TimePairSampler{}.sample(draw, "pair");
  const at::Tensor a = draw.uniform("pair/p", {}), b = draw.uniform("pair/q", {});
  EXPECT_TRUE(at::equal(s, at::minimum(a, b)));
  EXPECT_TRUE(at::equal(t, at::maximum(a, b)));
}

TimePairSampler read_pairs(const char* text) {
  return read_time_pair_sampler(Config::from_text(text, "test"));
}

double normal_share(double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); }
double logit(double t) { return std::log(t / (1 - t)); }

// Two logit-normals in order: P(s > x) = P(a > x)^2, P(t < x) = P(a < x)^2.
TEST(TimePairSampler, LogitNormalsInOrder) {
  const auto [s, t] =
      read_pairs(R"({"type": "logit_normal", "mean": -0.4, "std": 1.3})")
          .sample(Draw(4, 0, kMany), "pair");
  EXPECT_GE((t - s).min().item<double>(), 0);
  for (const double x : {0.1, 0.4, 0.7}) {
    const double below = normal_share((logit(x) + 0.4) / 1.3);
    EXPECT_NEAR(mean_of(t.lt(x)), below * below, 6e-3) << x;
    EXPECT_NEAR(mean_of(s.gt(x)), (1 - below) * (1 - below), 6e-3) << x;
  }
}

// MeanFlow's levels: ln sigma at s ~ N(-0.6, 1.6^2), at t ~ N(-4, 1.6^2), t not below s.
TEST(TimePairSampler, LognormalNoiseLevels) {
  const auto [s, t] = read_pairs(R"({"type": "lognormal"})")
                          .sample(Draw(5, 0, kMany), "pair");
  EXPECT_GE((t - s).min().item<double>(), 0);
  for (const double x : {0.2, 0.65, 0.9}) {
    const double first = normal_share((logit(x) - 0.6) / 1.6);
    EXPECT_NEAR(mean_of(s.lt(x)), first, 6e-3) << x;
    EXPECT_NEAR(mean_of(t.lt(x)), first * normal_share((logit(x) - 4) / 1.6), 6e-3) << x;
  }
  // Where the second would lie below the first both are one.
  EXPECT_NEAR(mean_of(s.eq(t)), normal_share(-3.4 / (1.6 * std::sqrt(2.0))), 6e-3);
}

// h = u^(1/k): E h = k/(k+1), E h^2 = k/(k+2); s uniform in [0, 1-h].
TEST(TimePairSampler, GapPowerFavoursLongJumps) {
  for (const double power : {1.0, 0.5, 3.0}) {
    TimePairSampler sampler{.rule = TimePairSampler::Rule::gap, .gap_power = power};
    const auto [s, t] = sampler.sample(Draw(6, 0, kMany), "pair");
    const at::Tensor h = t - s;
    EXPECT_GE(h.min().item<double>(), 0);
    EXPECT_GE(s.min().item<double>(), 0);
    EXPECT_LE(t.max().item<double>(), 1);
    EXPECT_NEAR(mean_of(h), power / (power + 1), 4e-3) << power;
    EXPECT_NEAR(mean_of(h.square()), power / (power + 2), 4e-3) << power;
    EXPECT_NEAR(mean_of(s), 0.5 / (power + 1), 4e-3) << power;
    EXPECT_NEAR(mean_of(s * h), 0.5 * (power / (power + 1) - power / (power + 2)), 4e-3);
  }
}

TEST(TimePairSampler, DyadicJumpsStayOnTheirGrid) {
  const TimePairSampler sampler = read_pairs(R"({"type": "dyadic", "grid": 16})");
  const auto [s, t] = sampler.sample(Draw(7, 0, kMany), "pair");
  EXPECT_LE(t.max().item<double>(), 1);
  EXPECT_GE(s.min().item<double>(), 0);
  const at::Tensor h = t - s;
  double share = 0;
  for (const double gap : {1.0, 0.5, 0.25, 0.125}) {
    const at::Tensor places = s.index({h.eq(gap)}) / gap;  // whole multiples of the jump
    EXPECT_TRUE(at::equal(places, places.floor()));
    for (int64_t place = 0; place < std::llround(1 / gap); ++place)
      EXPECT_NEAR(mean_of(places.eq(place)), gap, 0.015) << gap << " " << place;
    EXPECT_NEAR(mean_of(h.eq(gap)), 0.25, 6e-3) << gap;
    share += mean_of(h.eq(gap));
  }
  EXPECT_NEAR(share, 1, 1e-12);
}

TEST(TimePairSampler, EndsAtDataAsOftenAsAsked) {
  const Draw draw(8, 0, kMany);
  TimePairSampler sampler{.zero_probability = 0.3, .one_probability = 0.4};
  const auto [s, t] = sampler.sample(draw, "pair");
  EXPECT_NEAR(mean_of(t.eq(1)), 0.4, 6e-3);
  EXPECT_NEAR(mean_of(s.eq(0)), 0.3, 6e-3);
  // Independent of each other; the other pairs are those of the plain sampler.
  EXPECT_NEAR(mean_of(t.eq(1).logical_and(s.eq(0))), 0.12, 6e-3);
  const auto plain = TimePairSampler{}.sample(draw, "pair");
  EXPECT_TRUE(at::equal(at::where(t.eq(1), t, plain.t), t));
  sampler.one_probability = 1;
  EXPECT_EQ(sampler.sample(draw, "pair").t.min().item<double>(), 1);
}

// What is beyond the limit is cut, nothing else moves.
TEST(TimePairSampler, GapLimitCuts) {
  const Draw draw(9, 0, kMany);
  const TimePairSampler sampler{.one_probability = 0.2};
  const auto plain = sampler.sample(draw, "pair");
  for (const double limit : {0.0, 0.25, 0.7}) {
    const auto [s, t] = sampler.sample(draw, "pair", limit);
    EXPECT_TRUE(at::equal(s, plain.s));
    EXPECT_TRUE(at::equal(t, at::minimum(plain.t, plain.s + limit)));
    EXPECT_LE((t - s).max().item<double>(), limit + 1e-6);
  }
  EXPECT_TRUE(at::equal(sampler.sample(draw, "pair", 1).t, plain.t));
}

TEST(TimePairSampler, IsReadAndChecked) {
  using Rule = TimePairSampler::Rule;
  EXPECT_EQ(read_pairs("{}").rule, Rule::triangle);
  const TimePairSampler normal = read_pairs(R"({"type": "logit_normal", "mean": 1})");
  EXPECT_EQ(normal.rule, Rule::logit_normal);
  EXPECT_EQ(normal.mean, 1);
  const TimePairSampler levels = read_pairs(R"({"type": "lognormal", "P_mean": -0.5,
    "P_std": 1.1, "P_mean_t": -3, "P_std_t": 1.2, "zero_probability": 0.1,
    "one_probability": 0.2})");
  EXPECT_EQ(levels.rule, Rule::two_logit_normals);
  EXPECT_EQ(levels.mean, 0.5);
  EXPECT_EQ(levels.std, 1.1);
  EXPECT_EQ(levels.mean_t, 3);
  EXPECT_EQ(levels.std_t, 1.2);
  EXPECT_EQ(levels.zero_probability, 0.1);
  EXPECT_EQ(levels.one_probability, 0.2);
  EXPECT_EQ(read_pairs(R"({"type": "gap", "power": 2})").gap_power, 2);
  EXPECT_EQ(read_pairs(R"({"type": "dyadic"})").grid, 128);
  EXPECT_THROW(read_pairs(R"({"type": "square"})"), UsageError);
  EXPECT_THROW(read_pairs(R"({"type": "dyadic", "grid": 12})"), UsageError);
  EXPECT_THROW(read_pairs(R"({"type": "dyadic", "grid": 1})"), UsageError);
  EXPECT_THROW(read_pairs(R"({"type": "gap", "power": 0})"), UsageError);
  EXPECT_THROW(read_pairs(R"({"type": "logit_normal", "std": 0})"), UsageError);
  EXPECT_THROW(read_pairs(R"({"zero_probability": 1.5})"), UsageError);
  EXPECT_THROW(read_pairs(R"({"one_probability": -0.5})"), UsageError);
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
