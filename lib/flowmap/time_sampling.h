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
  enum class Rule {
    uniform,
    logit_normal,
    u_shape,  // density a cosh(a (r - 1/2)) / (2 sinh(a/2)) (Lee et al. 2024, rfpp)
    knots,    // r = k / count, k uniform in 0 ... count - 1 (k-step distillation)
    point,    // r = value, always
  };
  Rule rule = Rule::uniform;
  double mean = 0, std = 1;  // logit_normal: t = sigmoid(mean + std n)
  double a = 4;              // u_shape
  int64_t count = 1;         // knots
  double value = 0;          // point
  // logit_normal is clamped to [low, high]; of the other rules t = low + (high - low) r. So
  // low = 1e-3 is the eps of rectified flow's code, t = (1 - eps) r + eps.
  double low = 0, high = 1;
  // Rows 2j and 2j + 1 of the step are mirror images, low + high - t, as rfpp's are that
  // stay together in its shuffle.
  bool mirrored = false;

  // [rows] float32 from streams under `name`. `first_row`: where the rows begin in the step
  // (StepContext::first_row), for `mirrored`. Throws UsageError where a pair is cut.
  at::Tensor sample(const Draw& draw, std::string_view name, int64_t first_row = 0) const;
  // r of the u-shape from uniforms [rows]: ln(1 + u (e^a - 1)) / a, 1 - r where `turned`.
  at::Tensor u_shape(const at::Tensor& uniform, const at::Tensor& turned) const;
};
// Reads "times": {"type": "uniform" | "logit_normal" | "lognormal" | "u_shape" | "knots" |
// "point", "mean", "std", "a", "count", "value", "low", "high", "mirrored"}. lognormal is
// EDM's ln sigma ~ N(P_mean, P_std^2) with noise of unit deviation: in our clock a
// logit-normal of mean -P_mean.
TimeSampler read_time_sampler(const Config& config);

// Pairs s <= t.
struct TimePairSampler {
  enum class Rule {
    triangle,      // both uniform: density 2, E[t-s] = 1/3 (Boffi et al. 2025)
    logit_normal,  // sigmoid(mean + std n) each, in order (MeanFlow)
    // s = sigmoid(mean + std n), t = max(s, sigmoid(mean_t + std_t n')): MeanFlow's
    // noise levels of CIFAR-10
    two_logit_normals,
    gap,     // t - s = u^(1/gap_power), s uniform: above 1 long jumps are favoured (TVM)
    dyadic,  // t - s = 2^-k, k uniform in 0 ... log2(grid) - 1, s on that grid (shortcut)
  };
  Rule rule = Rule::triangle;
  double mean = 0, std = 1, mean_t = 0, std_t = 1;
  double gap_power = 1;
  int64_t grid = 128;
  // With these probabilities s = 0 (jumps from noise, which one-step generation needs), and
  // t = 1 (jumps to data: consistency models).
  double zero_probability = 0, one_probability = 0;

  struct Pair {
    at::Tensor s, t;  // [rows] float32
  };
  // `gap_limit`: t is at most s + gap_limit, what is drawn is cut (annealing).
  Pair sample(const Draw& draw, std::string_view name, double gap_limit = 1) const;
  // The rules of two normals [rows] each, from the normals themselves.
  Pair from_normals(const at::Tensor& first, const at::Tensor& second) const;
};
// Reads "pairs": {"type": "triangle" | "logit_normal" | "lognormal" | "gap" | "dyadic", ...}.
// lognormal: "P_mean", "P_std" of the noise level at s, "P_mean_t", "P_std_t" of that at t.
TimePairSampler read_time_pair_sampler(const Config& config);

}  // namespace flowmap
