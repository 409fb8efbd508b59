// Jumps of flow maps and of consistency models, with noise added between them.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "samplers/log_snr.h"

namespace flowmap::samplers {

struct JumpOptions {
  // gamma of the consistency trajectory models' sampler (Kim et al. 2023, arXiv
  // 2310.02279, algorithm 3), in [0, 1]: one for all steps, or one a step. The jump to the
  // next knot, of noise level sigma (noise over data), goes on to the level
  // sqrt(1 - gamma^2) sigma, and noise of deviation gamma sigma leads back. 0: plain jumps
  // from knot to knot; 1: jumps to the data and full noise again, the multistep sampler of
  // consistency models (Song et al. 2023, arXiv 2303.01469, algorithm 1).
  std::vector<double> churn = {0};
  double s_noise = 1;  // deviation of that noise
  // The noise level that the model takes for data (consistency models: 0.002).
  double epsilon = 0;
};

// latents: unit normals [B, sample...]; the sample in float64. Flow maps jump by X_{s,t}
// itself, x + (t-s) v_{s,t}(x); denoisers and velocity models to the level that their
// estimate of data and noise gives (DDIM's step, exact for a consistency model's jump to
// the data). One evaluation a step. Throws UsageError where the schedule's unit is not the
// model's or the numbers of `churn` are not those of the steps.
at::Tensor solve_jumps(Model& model, const at::Tensor& latents, const Condition& condition,
                       const Schedule& schedule, const JumpOptions& options,
                       const NoiseSource& noise);

// Options churn, S_noise, epsilon. "flow_map" (churn 0 unless said) refuses other models;
// "consistency" has churn 1.
std::shared_ptr<Sampler> make_flow_map(const Config& options);
std::shared_ptr<Sampler> make_consistency(const Config& options);

}  // namespace flowmap::samplers
