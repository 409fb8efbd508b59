#include "samplers/rk45_slope.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "samplers/ode.h"

namespace flowmap::samplers {

RowSlope::RowSlope(Model& model, const Condition& condition, const at::Tensor& latents)
    : model_(model),
      condition_(condition),
      info_(model.info()),
      network_options_(network_options(model, latents)) {}

at::Tensor RowSlope::operator()(const at::Tensor& x, const Numbers& times) {
  const bool sigma = info_.kind == ModelKind::denoiser;
  Numbers asked = times;
  if (!sigma)
    for (double& t : asked) t = std::clamp(t, info_.t_min, info_.t_max);
  const at::Tensor input = x.to(network_options_);
  const at::Tensor at_times = at::tensor(asked, at::kDouble).to(network_options_);
  if (!sigma)
    return model_.velocity(input, at_times, condition_, context_).value.to(at::kDouble);
  const at::Tensor data =
      model_.denoise(input, at_times, condition_, context_).value.to(at::kDouble);
  return (x - data) / column(times, x);
}

at::Tensor RowSlope::column(const Numbers& values, const at::Tensor& x) {
  std::vector<int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[0] = x.size(0);
  return at::tensor(values, at::kDouble).to(x.device()).reshape(shape);
}

}  // namespace flowmap::samplers
