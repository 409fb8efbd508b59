// What the ODE samplers share: the state around the network.
#pragma once

#include <ATen/core/Tensor.h>

#include "samplers/sampler.h"

namespace flowmap::samplers {

// The probability flow of a model as dx/dk along the knots of a schedule: k is sigma for
// denoisers, dx/dsigma = (x - D(x; sigma)) / sigma (Karras et al. 2022, eq. 3 with
// s(t) = 1, sigma(t) = t), and our time for the others, dx/dt = v_{t,t}(x).
// The state is float64 [B, sample...]; the network is asked in its own precision (EDM).
class Ode {
 public:
  // `condition` and `model` are kept by the caller. Throws UsageError where the schedule's
  // unit is not the model's.
  Ode(Model& model, const Condition& condition, const Schedule& schedule,
      const at::Tensor& latents);

  // Where integration starts: the noise of the first knot, sigma_0 n or alpha(t_0) b n.
  at::Tensor start(const at::Tensor& latents) const;
  // dx/dk at knot value k.
  at::Tensor slope(const at::Tensor& x, double k);
  // v_{s,t}(x), float64.
  at::Tensor average_velocity(const at::Tensor& x, double s, double t);

 private:
  at::Tensor times(double value) const;
  double clamped(double t) const;

  Model& model_;
  const Condition& condition_;
  Context context_;
  ModelInfo info_;
  double first_;
  bool sigma_;
  int64_t batch_;
  at::TensorOptions network_options_;  // device and precision of the network
};

// The options of the network's floating-point parameters; of `fallback` without any.
at::TensorOptions network_options(const Model& model, const at::Tensor& fallback);

}  // namespace flowmap::samplers
