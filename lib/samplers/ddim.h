// Denoising diffusion implicit models (Song et al. 2020, arXiv 2010.02502).
#pragma once

#include "samplers/log_snr.h"

namespace flowmap::samplers {

struct DdimOptions {
  double eta = 0;  // 0: the ODE; 1: ancestral sampling (DDPM). In [0, 1]
  FinalSigma final_sigma = FinalSigma::zero;
  // Above 0: D is held within +-clip, e taken from what D was (diffusers' clip_sample).
  double clip = 0;
};

// latents: unit normals [B, sample...]; the sample in float64. With q = 1 - e^{-2h} of a
// step from level s to t (h the growth of lambda), D the data and e = (x - alpha_s D) /
// sigma_s the noise in x:
//   x_t = alpha_t D + sigma_t (sqrt(1 - eta^2 q) e + eta sqrt(q) n),
// which is eq. 12 with the sigma of eq. 16 whatever scales the state. First order.
at::Tensor solve_ddim(Model& model, const at::Tensor& latents, const Condition& condition,
                      const Schedule& schedule, const DdimOptions& options,
                      const NoiseSource& noise);

// Throws UsageError on values outside their ranges.
DdimOptions read_ddim_options(const Config& options);
std::shared_ptr<Sampler> make_ddim(const Config& options);

}  // namespace flowmap::samplers
