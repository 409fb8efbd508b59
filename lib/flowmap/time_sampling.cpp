#include "flowmap/time_sampling.h"

#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <vector>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

// Rows where a coin of this probability falls get `value`.
at::Tensor sometimes(const Draw& draw, const std::string& stream, double probability,
                     const at::Tensor& times, double value) {
  if (probability <= 0) return times;
  return at::where(draw.uniform(stream, {}).lt(probability), at::full_like(times, value),
                   times);
}

}  // namespace

at::Tensor TimeSampler::u_shape(const at::Tensor& uniform,
                                const at::Tensor& turned) const {
  const at::Tensor r = (uniform * std::expm1(a)).log1p() / a;
  return at::where(turned, 1 - r, r);
}

at::Tensor TimeSampler::sample(const Draw& draw, std::string_view name,
                               int64_t first_row) const {
  const std::string stream(name);
  at::Tensor t;
  switch (rule) {
    case Rule::uniform: t = draw.uniform(name, {}); break;
    case Rule::logit_normal:
      t = (draw.normal(name, {}) * std + mean).sigmoid().clamp(low, high);
      break;
    case Rule::u_shape:
      t = u_shape(draw.uniform(name, {}), draw.uniform(stream + "/turned", {}).lt(0.5));
      break;
    case Rule::knots:
      t = draw.integer(name, {}, count).to(at::kFloat) / static_cast<double>(count);
      break;
    case Rule::point: t = at::full({draw.rows()}, value, at::kFloat); break;
  }
  if (rule != Rule::logit_normal) t = t * (high - low) + low;
  if (!mirrored) return t;
  FM_CHECK_USAGE(first_row % 2 == 0 && t.size(0) % 2 == 0,
                 "times.mirrored: a micro-batch of ", t.size(0), " samples from row ",
                 first_row, " cuts a pair of mirrored times; make trainer.batch_gpu even");
  const at::Tensor first = t.view({-1, 2}).select(1, 0);
  return at::stack({first, low + high - first}, 1).flatten();
}

TimeSampler read_time_sampler(const Config& config) {
  TimeSampler sampler;
  using Rule = TimeSampler::Rule;
  const std::vector<std::string> rules = {"uniform", "logit_normal", "lognormal",
                                          "u_shape", "knots",        "point"};
  const std::string rule = config.choice("type", rules, "uniform");
  if (rule == "logit_normal") {
    sampler.rule = Rule::logit_normal;
    sampler.mean = config.number("mean", 0, -10, 10);
    sampler.std = config.number("std", 1, 1e-6, 10);
  } else if (rule == "lognormal") {
    sampler.rule = Rule::logit_normal;
    sampler.mean = -config.number("P_mean", -1.2, -10, 10);
    sampler.std = config.number("P_std", 1.2, 1e-6, 10);
  } else if (rule == "u_shape") {
    sampler.rule = Rule::u_shape;
    sampler.a = config.number("a", 4, 1e-3, 50);
  } else if (rule == "knots") {
    sampler.rule = Rule::knots;
    sampler.count = config.integer("count", 4, 1, 1 << 20);
  } else if (rule == "point") {
    sampler.rule = Rule::point;
    sampler.value = config.number("value", 0, 0, 1);
  }
  sampler.low = config.number("low", 0, 0, 1);
  sampler.high = config.number("high", 1, 0, 1);
  FM_CHECK_USAGE(sampler.low < sampler.high, config.where("low"), ": times.low = ",
                 sampler.low, " is not below times.high = ", sampler.high);
  sampler.mirrored = config.boolean("mirrored", false);
  return sampler;
}

TimePairSampler::Pair TimePairSampler::from_normals(const at::Tensor& first,
                                                    const at::Tensor& second) const {
  const at::Tensor a = (first * std + mean).sigmoid();
  if (rule == Rule::logit_normal) {
    const at::Tensor b = (second * std + mean).sigmoid();
    return {at::minimum(a, b), at::maximum(a, b)};
  }
  return {a, at::maximum(a, (second * std_t + mean_t).sigmoid())};
}

TimePairSampler::Pair TimePairSampler::sample(const Draw& draw, std::string_view name,
                                              double gap_limit) const {
  const std::string prefix(name), p = prefix + "/p", q = prefix + "/q";
  Pair pair;
  switch (rule) {
    case Rule::triangle: {
      const at::Tensor a = draw.uniform(p, {}), b = draw.uniform(q, {});
      pair = {at::minimum(a, b), at::maximum(a, b)};
      break;
    }
    case Rule::logit_normal:
    case Rule::two_logit_normals:
      pair = from_normals(draw.normal(p, {}), draw.normal(q, {}));
      break;
    case Rule::gap: {
      const at::Tensor h = draw.uniform(p, {}).pow(1 / gap_power);
      pair.s = draw.uniform(q, {}) * (1 - h);
      pair.t = pair.s + h;
      break;
    }
    case Rule::dyadic: {
      const auto levels = static_cast<int64_t>(std::llround(std::log2(grid)));
      const at::Tensor parts =
          at::pow(2, draw.integer(p, {}, levels).to(at::kFloat));  // 1, 2, ... grid / 2
      const at::Tensor place = (draw.uniform(q, {}) * parts).floor();
      pair = {place / parts, (place + 1) / parts};
      break;
    }
  }
  pair.s = sometimes(draw, prefix + "/zero", zero_probability, pair.s, 0);
  pair.t = sometimes(draw, prefix + "/one", one_probability, pair.t, 1);
  if (gap_limit < 1) pair.t = at::minimum(pair.t, pair.s + gap_limit);
  return pair;
}

TimePairSampler read_time_pair_sampler(const Config& config) {
  TimePairSampler sampler;
  using Rule = TimePairSampler::Rule;
  const std::vector<std::string> rules = {"triangle", "logit_normal", "lognormal", "gap",
                                          "dyadic"};
  const std::string rule = config.choice("type", rules, "triangle");
  if (rule == "logit_normal") {
    sampler.rule = Rule::logit_normal;
    sampler.mean = config.number("mean", 0, -10, 10);
    sampler.std = config.number("std", 1, 1e-6, 10);
  } else if (rule == "lognormal") {
    sampler.rule = Rule::two_logit_normals;
    sampler.mean = -config.number("P_mean", -0.6, -20, 20);
    sampler.std = config.number("P_std", 1.6, 1e-6, 20);
    sampler.mean_t = -config.number("P_mean_t", -4, -20, 20);
    sampler.std_t = config.number("P_std_t", 1.6, 1e-6, 20);
  } else if (rule == "gap") {
    sampler.rule = Rule::gap;
    sampler.gap_power = config.number("power", 1, 0.01, 100);
  } else if (rule == "dyadic") {
    sampler.rule = Rule::dyadic;
    sampler.grid = config.integer("grid", 128, 2, 1 << 20);
    FM_CHECK_USAGE((sampler.grid & (sampler.grid - 1)) == 0, config.where("grid"),
                   ": pairs.grid = ", sampler.grid, " is not a power of two");
  }
  sampler.zero_probability = config.number("zero_probability", 0, 0, 1);
  sampler.one_probability = config.number("one_probability", 0, 0, 1);
  return sampler;
}

}  // namespace flowmap
