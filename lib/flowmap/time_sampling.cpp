#include "flowmap/time_sampling.h"

#include <ATen/ATen.h>

#include "flowmap/base/error.h"

namespace flowmap {

at::Tensor TimeSampler::sample(const Draw& draw, std::string_view name) const {
  if (rule == Rule::uniform) return draw.uniform(name, {}) * (high - low) + low;
  return (draw.normal(name, {}) * std + mean).sigmoid().clamp(low, high);
}

TimeSampler read_time_sampler(const Config& config) {
  TimeSampler sampler;
  const std::vector<std::string> rules = {"uniform", "logit_normal"};
  if (config.choice("type", rules, "uniform") == "logit_normal") {
    sampler.rule = TimeSampler::Rule::logit_normal;
    sampler.mean = config.number("mean", 0, -10, 10);
    sampler.std = config.number("std", 1, 1e-6, 10);
  }
  sampler.low = config.number("low", 0, 0, 1);
  sampler.high = config.number("high", 1, 0, 1);
  FM_CHECK_USAGE(sampler.low < sampler.high, config.where("low"), ": times.low = ",
                 sampler.low, " is not below times.high = ", sampler.high);
  return sampler;
}

TimePairSampler::Pair TimePairSampler::sample(const Draw& draw,
                                              std::string_view name) const {
  const std::string prefix(name);
  const at::Tensor p = draw.uniform(prefix + "/p", {});
  const at::Tensor q = draw.uniform(prefix + "/q", {});
  Pair pair{at::minimum(p, q), at::maximum(p, q)};
  if (zero_probability > 0) {
    const at::Tensor from_noise = draw.uniform(prefix + "/zero", {}).lt(zero_probability);
    pair.s = at::where(from_noise, at::zeros_like(pair.s), pair.s);
  }
  return pair;
}

}  // namespace flowmap
