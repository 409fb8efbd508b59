// How much fresh noise annealing reflow mixes into the noise of a pair (Zhu et al. 2024,
// SlimFlow, arXiv 2407.12718, section 3.1).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "flowmap/base/config.h"

namespace flowmap::distill {

struct AnnealingSchedule {
  enum class Rule {
    linear,       // max(0, 1 - k/W)
    cosine,       // (1 + cos(pi min(1, k/W))) / 2
    exponential,  // exp(-k/W)
    constant,     // fixed
  };
  Rule rule = Rule::constant;
  // W and k are counted in images seen, so that batch size and resumed runs change nothing:
  // SlimFlow's 300,000 steps of 128 are 38.4 million images.
  int64_t warmup = 1;
  double fixed = 0;

  // 1: noise and sample independent (a 1-rectified flow); 0: reflow.
  double beta(int64_t images_seen) const;
};
// "randomness": "linear" | "cosine" | "exponential" | "constant", "warmup" (images, kimg
// where no unit is given), "beta" (of constant).
AnnealingSchedule read_annealing(const Config& method);

// sqrt(1 - beta^2) n + beta fresh: unit normals of correlation sqrt(1 - beta^2) with n.
at::Tensor annealed_noise(const at::Tensor& noise, const at::Tensor& fresh, double beta);

}  // namespace flowmap::distill
