// The sampler of 2-rectified flow++ (Lee et al. 2024, arXiv 2405.20320, section 5).
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "samplers/sampler.h"

namespace flowmap::samplers {

// Each step estimates the sample, x^ = x_t + (1 - t) v, and goes on from the line between the
// first state and it, x_s = s x^ + (1 - s) x_0, not from x_t + (s - t) v: the same where the
// paths are straight, and where they are nearly so, errors of earlier steps are forgotten.
// `heun`: v is the mean of that at x_t and at the x_s so found; the last step is Euler's.
// Float64. Throws UsageError for models whose schedule is in sigma, or of the trigonometric
// interpolant.
at::Tensor solve_straight(Model& model, const at::Tensor& latents,
                          const Condition& condition, const Schedule& schedule, bool heun);

// "straight", option "order": 1 or 2 (Heun).
std::shared_ptr<Sampler> make_straight(const Config& options);

}  // namespace flowmap::samplers
