#include "samplers/euler_paths.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "flowmap/base/error.h"
#include "samplers/ode.h"

namespace flowmap::samplers {

EulerPaths euler_paths(Model& model, const at::Tensor& latents, const Condition& condition,
                       int64_t steps) {
  FM_CHECK_USAGE(steps >= 1, "paths of ", steps, " steps");
  const at::NoGradGuard no_grad;
  const ModelInfo info = model.info();
  const at::TensorOptions network = network_options(model, latents);
  const double h = 1.0 / static_cast<double>(steps);
  at::Tensor x = latents.to(network.device()).to(at::kDouble) * info.base_std;
  std::vector<at::Tensor> states = {x}, velocities;
  Context context;
  for (int64_t k = 0; k < steps; ++k) {
    const double t = std::clamp(static_cast<double>(k) * h, info.t_min, info.t_max);
    const at::Tensor v =
        model.velocity(x.to(network), at::full({x.size(0)}, t, network), condition, context)
            .value.to(at::kDouble);
    x = x + h * v;
    velocities.push_back(v);
    states.push_back(x);
  }
  return {at::stack(states), at::stack(velocities)};
}

at::Tensor deviation_by_time(const EulerPaths& paths) {
  const at::Tensor chord = paths.states[-1] - paths.states[0];
  return (chord.unsqueeze(0) - paths.velocities).flatten(2).square().sum(2);
}

at::Tensor curvature_by_time(const EulerPaths& paths) {
  const auto steps = static_cast<double>(paths.velocities.size(0));
  return (paths.velocities.diff(1, 0) * steps).flatten(2).square().sum(2);
}

at::Tensor pair_error(const at::Tensor& end, const at::Tensor& data) {
  return (end - data.to(end.options())).square().flatten(1).mean(1);
}

}  // namespace flowmap::samplers
