// Loss terms of flow maps as pure functions: raw per-sample values, [B], a SUM over
// dimensions (Boffi, Albergo, Vanden-Eijnden, arXiv 2505.18825; spec sections 2.1, 2.2).
// The teacher is a second model: the student itself, an average of it, or a frozen one.
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/model.h"

namespace flowmap::distill {

// What is cut from the gradient.
enum class StopGradient {
  convex,    // the teacher's velocity and where it is evaluated (recommended)
  none,      // nothing: the teacher's spatial Jacobian takes part
  detached,  // convex, and the time derivative too (saves memory)
};

// | v_{t,t}(x) - target |^2 at x = I_t. x, target [B, sample...], t [B].
at::Tensor diagonal_loss(Model& student, const at::Tensor& x, const at::Tensor& t,
                         const at::Tensor& target, const Condition& condition,
                         Context& context);

// Lagrangian residual | d/dt X_{s,t}(x) - b_t(X_{s,t}(x)) |^2 at x = I_s, b the teacher's
// velocity. The derivative is the exact Jacobian-vector product in t with tangent 1 and
// is differentiated through.
at::Tensor lagrangian_loss(Model& student, Model& teacher, const at::Tensor& x,
                           const at::Tensor& s, const at::Tensor& t,
                           const Condition& condition, Context& context,
                           StopGradient stop);

// EDM's denoising loss (Karras et al. 2022, arXiv 2206.00364, table 1):
// (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 | D(x1 + sigma n; sigma) - x1 |^2, with
// sigma_data of the model. x1 and the unit noise n [B, sample...], sigma [B].
at::Tensor denoising_loss(Model& student, const at::Tensor& x1, const at::Tensor& noise,
                          const at::Tensor& sigma, const Condition& condition,
                          Context& context);

// Per-sample weights.
enum class LossWeight {
  none,      // l
  learned,   // exp(-w_{s,t}) l + w_{s,t}, w from the model
  adaptive,  // l / sg(l + c)^p (MeanFlow)
};
struct LossWeighting {
  LossWeight rule = LossWeight::none;
  double p = 0.5, c = 0.01;
  // raw [B] at times s, t [B].
  at::Tensor apply(Model& student, const at::Tensor& raw, const at::Tensor& s,
                   const at::Tensor& t) const;
};

}  // namespace flowmap::distill
