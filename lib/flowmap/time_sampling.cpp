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

at::Tensor TimeSampler::sample(const Draw& draw, std::string_view name) const {
  if (rule == Rule::uniform) return draw.uniform(name, {}) * (high - low) + low;
  return (draw.normal(name, {}) * std + mean).sigmoid().clamp(low, high);
}

TimeSampler read_time_sampler(const Config& config) {
  TimeSampler sampler;
  const std::vector<std::string> rules = {"uniform", "logit_normal", "lognormal"};
  const std::string rule = config.choice("type", rules, "uniform");
  if (rule != "uniform") sampler.rule = TimeSampler::Rule::logit_normal;
  if (rule == "logit_normal") {
    sampler.mean = config.number("mean", 0, -10, 10);
    sampler.std = config.number("std", 1, 1e-6, 10);
  } else if (rule == "lognormal") {
    sampler.mean = -config.number("P_mean", -1.2, -10, 10);
    sampler.std = config.number("P_std", 1.2, 1e-6, 10);
  }
  sampler.low = config.number("low", 0, 0, 1);
  sampler.high = config.number("high", 1, 0, 1);
  FM_CHECK_USAGE(sampler.low < sampler.high, config.where("low"), ": times.low = ",
                 sampler.low, " is not below times.high = ", sampler.high);
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
