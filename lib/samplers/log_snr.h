// What the samplers in log-SNR share: the noise levels of a schedule and the network's
// estimate of the data.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <functional>
#include <string>

#include "samplers/sampler.h"

namespace flowmap::samplers {

// x = alpha x1 + sigma n, n unit normal.
struct NoiseLevel {
  double alpha = 1, sigma = 0;
  // lambda = log(alpha/sigma), half the logarithm of the signal-to-noise ratio (Lu et al.
  // 2022, arXiv 2211.01095). -inf where there is no data, +inf where there is no noise.
  double log_snr() const;
};

// The level at a knot. Denoisers: alpha = 1, sigma the knot. Others, in our clock: the
// model's interpolant, linear alpha = t, sigma = b (1-t).
NoiseLevel noise_level(const ModelInfo& info, double knot);

// E[x1 | x] of a model at the knots of a schedule: a denoiser's answer, or for the others
// from the velocity (linear: x + (1-t) v). Flow maps are asked on their diagonal. States are
// float64 [B, sample...]; the network is asked in its own precision.
class DataPredictor {
 public:
  // `condition` and `model` are kept by the caller. Throws UsageError where the schedule's
  // unit is not the model's.
  DataPredictor(Model& model, const Condition& condition, const Schedule& schedule,
                const at::Tensor& latents);

  NoiseLevel level(double knot) const { return noise_level(info_, knot); }
  // sigma n at the first knot, float64.
  at::Tensor start(const at::Tensor& latents) const;
  at::Tensor denoised(const at::Tensor& x, double knot);

 private:
  Model& model_;
  const Condition& condition_;
  Context context_;
  ModelInfo info_;
  double first_;
  at::TensorOptions network_options_;
};

// Unit normals [B, sample...] of a step, float64 where the state is.
using NoiseSource = std::function<at::Tensor(std::size_t step)>;
// Stream "step<i>/noise" of the draw, one key a row.
NoiseSource noise_of(const Draw& draw, const at::Tensor& latents);

// Where a run ends: at its last knot ("zero"), or one knot before ("sigma_min"), which
// leaves the noise of that level in the sample. Option `final_sigma` of these samplers.
enum class FinalSigma { zero, sigma_min };
FinalSigma read_final_sigma(const Config& options);
// The knots that are walked. Throws UsageError where one knot would be left.
Schedule walked(Schedule schedule, FinalSigma final_sigma);

}  // namespace flowmap::samplers
