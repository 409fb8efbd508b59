// Euler's and Heun's method as EDM's samplers (Karras et al. 2022, arXiv 2206.00364):
// algorithms 1 and 2, and the general form of its ablations (appendix C).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <memory>

#include "samplers/log_snr.h"
#include "samplers/noise_time.h"

namespace flowmap::samplers {

struct EdmOptions {
  bool second_order = true;  // Heun; else Euler
  // Churn: before a step at noise level sigma in [s_min, s_max], noise is raised to
  // sigma (1 + min(s_churn / steps, sqrt(2) - 1)) by fresh noise of deviation s_noise.
  double s_churn = 0, s_min = 0, s_max = std::numeric_limits<double>::infinity();
  double s_noise = 1;
  // Where the second slope is taken, as a part of the step: 1 Heun, 1/2 the midpoint, 2/3
  // Ralston. In (0, 1].
  double alpha = 1;
  // Denoisers: the variable of integration and the scale of the state.
  NoiseTime::Kind schedule = NoiseTime::Kind::linear;
  bool vp_scaling = false;
  // Denoisers: the first slope is x / sqrt(1 + sigma^2), without the network (Dockhorn et
  // al. 2022, arXiv 2210.05475).
  bool afs = false;
  // The last step is Euler's. In sigma it always is where it ends in 0, since the slope is
  // singular there; in our clock the slope at t = 1 is finite.
  bool lower_order_final = false;
};

// latents: unit normals [B, sample...]; the sample in float64. The knots of denoisers are
// noise levels, walked as t(sigma); of other models times, where sigma = b alpha/beta of
// the interpolant decides on churn, and pure noise (t = 0) is never churned. The churned
// level is one that the model knows (Model::round_sigma). Throws UsageError where the
// schedule's unit is not the model's, or an option of denoisers is set for another model.
at::Tensor solve_edm(Model& model, const at::Tensor& latents, const Condition& condition,
                     const Schedule& schedule, const EdmOptions& options,
                     const NoiseSource& noise);
// Network evaluations of solve_edm.
int64_t edm_evaluations(const Schedule& schedule, const EdmOptions& options);

// Options S_churn (or churn), S_min, S_max, S_noise, schedule (linear, ve, vp), scaling
// (none, vp), afs; heun also alpha, lower_order_final.
EdmOptions read_edm_options(const Config& options, bool second_order);
std::shared_ptr<Sampler> make_euler(const Config& options);
std::shared_ptr<Sampler> make_heun(const Config& options);

}  // namespace flowmap::samplers
