// Regression losses of base training as pure functions: raw per-sample values, [B], a SUM
// over dimensions; and the per-sample weights that all methods share.
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/model.h"

namespace flowmap::distill {

// | v_{t,t}(x) - target |^2 at x = I_t. x, target [B, sample...], t [B].
at::Tensor diagonal_loss(Model& student, const at::Tensor& x, const at::Tensor& t,
                         const at::Tensor& target, const Condition& condition,
                         Context& context);

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
  cauchy,    // log(exp(-w_{s,t}) l + 1) + w_{s,t} / 2, w from the model
};
// Whether the rule needs a model with a log-weight.
constexpr bool needs_log_weight(LossWeight rule) {
  return rule == LossWeight::learned || rule == LossWeight::cauchy;
}
struct LossWeighting {
  LossWeight rule = LossWeight::none;
  double p = 0.5, c = 0.01;
  // raw [B] at times s, t [B].
  at::Tensor apply(Model& student, const at::Tensor& raw, const at::Tensor& s,
                   const at::Tensor& t) const;
};

}  // namespace flowmap::distill
