// EDM2's loss term as a pure function.
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/model.h"

namespace flowmap::distill {

// exp(-u) w |D(x1 + sigma n; sigma) - x1|^2 + u in each dimension, summed over them, [B]
// (Karras et al. 2024, arXiv 2312.02696, eq. 16): w = (sigma^2 + sigma_data^2) / (sigma
// sigma_data)^2 with sigma_data of the model, u = Model::log_variance(sigma). `error` is
// w |...|^2 alone, no gradient. x1 and the unit noise n [B, sample...], sigma [B].
struct UncertainLoss {
  at::Tensor loss, error;
};
UncertainLoss uncertain_denoising_loss(Model& student, const at::Tensor& x1,
                                       const at::Tensor& noise, const at::Tensor& sigma,
                                       const Condition& condition, Context& context);

}  // namespace flowmap::distill
