// The training losses that go with the preconditionings of Karras et al. 2022 (arXiv
// 2206.00364, table 1); denoising_loss of regression_losses.h is EDM's own.
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/model.h"

namespace flowmap::distill {

// Noise levels of variance-preserving training: sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min
// t) - 1 at t = 1 + u (epsilon_t - 1). u in [0, 1), any shape.
at::Tensor vp_noise_levels(const at::Tensor& u, double beta_d, double beta_min,
                           double epsilon_t);
// Of variance-exploding training: sigma_min (sigma_max / sigma_min)^u.
at::Tensor ve_noise_levels(const at::Tensor& u, double sigma_min, double sigma_max);

// |D(x1 + sigma n; sigma) - x1|^2 / sigma^2, a SUM over dimensions, [B]: the loss of both.
// x1 and the unit noise n [B, sample...], sigma [B].
at::Tensor score_matching_loss(Model& student, const at::Tensor& x1,
                               const at::Tensor& noise, const at::Tensor& sigma,
                               const Condition& condition, Context& context);

}  // namespace flowmap::distill
