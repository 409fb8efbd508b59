#include "samplers/ode.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "flowmap/base/error.h"
#include "samplers/log_snr.h"

namespace flowmap::samplers {

at::TensorOptions network_options(const Model& model, const at::Tensor& fallback) {
  for (const at::Tensor& parameter : model.parameters())
    if (parameter.is_floating_point()) return parameter.options().requires_grad(false);
  return fallback.options().requires_grad(false);
}

Ode::Ode(Model& model, const Condition& condition, const Schedule& schedule,
         const at::Tensor& latents)
    : model_(model),
      condition_(condition),
      info_(model.info()),
      first_(schedule.times.front()),
      sigma_(schedule.sigma),
      batch_(latents.size(0)),
      network_options_(network_options(model, latents)) {
  FM_CHECK_USAGE(sigma_ == (info_.kind == ModelKind::denoiser),
                 "schedule '", schedule.source, "' is in ", sigma_ ? "sigma" : "time",
                 ", but the model is a ", model_kind_name(info_.kind));
}

at::Tensor Ode::start(const at::Tensor& latents) const {
  return latents.to(at::kDouble) * noise_level(info_, first_).sigma;
}

at::Tensor Ode::times(double value) const {
  return at::full({batch_}, value, network_options_);
}

double Ode::clamped(double t) const { return std::clamp(t, info_.t_min, info_.t_max); }

at::Tensor Ode::slope(const at::Tensor& x, double k) {
  const at::Tensor input = x.to(network_options_);
  if (!sigma_)
    return model_.velocity(input, times(clamped(k)), condition_, context_)
        .value.to(at::kDouble);
  const at::Tensor denoised =
      model_.denoise(input, times(k), condition_, context_).value.to(at::kDouble);
  return (x - denoised) / k;
}

at::Tensor Ode::average_velocity(const at::Tensor& x, double s, double t) {
  return model_
      .average_velocity(x.to(network_options_), times(clamped(s)), times(clamped(t)),
                        condition_, context_)
      .value.to(at::kDouble);
}

}  // namespace flowmap::samplers
