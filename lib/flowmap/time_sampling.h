// Distributions of training times in our clock (0 noise, 1 data).
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

#include "flowmap/base/config.h"
#include "flowmap/draw.h"

namespace flowmap {

// One time a sample.
struct TimeSampler {
  enum class Rule { uniform, logit_normal };
  Rule rule = Rule::uniform;
  double mean = 0, std = 1;  // logit_normal: t = sigmoid(mean + std n)
  double low = 0, high = 1;  // uniform on [low, high]; logit_normal is clamped

  // [rows] float32 from streams under `name`.
  at::Tensor sample(const Draw& draw, std::string_view name) const;
};
// Reads "times": {"type": "uniform" | "logit_normal", "mean", "std", "low", "high"}.
TimeSampler read_time_sampler(const Config& config);

// Pairs s <= t: both uniform on the triangle (density 2; E[t-s] = 1/3), and with
// probability `zero_probability` s = 0 instead (jumps from noise, which one-step
// generation needs).
struct TimePairSampler {
  double zero_probability = 0;
  struct Pair {
    at::Tensor s, t;  // [rows] float32
  };
  Pair sample(const Draw& draw, std::string_view name) const;
};

}  // namespace flowmap
