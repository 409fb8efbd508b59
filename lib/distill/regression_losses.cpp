#include "distill/regression_losses.h"

#include <ATen/ATen.h>

#include "flowmap/interpolant.h"

namespace flowmap::distill {
namespace {
at::Tensor squared_sum(const at::Tensor& residual) {
  return residual.flatten(1).square().sum(1);
}
}  // namespace

at::Tensor diagonal_loss(Model& student, const at::Tensor& x, const at::Tensor& t,
                         const at::Tensor& target, const Condition& condition,
                         Context& context) {
  return squared_sum(student.velocity(x, t, condition, context).value - target);
}

at::Tensor denoising_loss(Model& student, const at::Tensor& x1, const at::Tensor& noise,
                          const at::Tensor& sigma, const Condition& condition,
                          Context& context) {
  const double sigma_data = student.info().sigma_data;
  const at::Tensor x = x1 + column_like(sigma, x1) * noise;
  const at::Tensor denoised = student.denoise(x, sigma, condition, context).value;
  const at::Tensor weight =
      (sigma.square() + sigma_data * sigma_data) / (sigma * sigma_data).square();
  return weight * squared_sum(denoised - x1);
}

at::Tensor LossWeighting::apply(Model& student, const at::Tensor& raw,
                                const at::Tensor& s, const at::Tensor& t) const {
  switch (rule) {
    case LossWeight::none: return raw;
    case LossWeight::learned: {
      const at::Tensor w = student.log_weight(s, t);
      return (-w).exp() * raw + w;
    }
    case LossWeight::cauchy: {
      const at::Tensor w = student.log_weight(s, t);
      return ((-w).exp() * raw).log1p() + 0.5 * w;
    }
    case LossWeight::adaptive: return raw / (raw.detach() + c).pow(p);
  }
  return raw;
}

}  // namespace flowmap::distill
