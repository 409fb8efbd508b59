// UniPC: unified predictor-corrector, multistep (Zhao et al. 2023, arXiv 2302.04867).
#pragma once

#include <vector>

#include "samplers/log_snr.h"

namespace flowmap::samplers {

struct UnipcOptions {
  int64_t order = 2;  // 1 to 3 of the predictor; the corrector adds one
  bool bh1 = false;   // B(h) = h; otherwise e^h - 1 (bh2)
  bool corrector = true;
  std::vector<int64_t> disable_corrector;  // steps (from 0) that are left uncorrected
  bool lower_order_final = true;           // orders ..., 2, 1 in the last steps
  bool predict_noise = false;              // integrate the noise in x, not the data
  FinalSigma final_sigma = FinalSigma::zero;
};

// latents: unit normals [B, sample...]; the sample in float64. The corrector uses the
// evaluation that the next step needs anyway, so a step costs one. The last step is left
// uncorrected, and so is one from lambda = -inf (t = 0) where its formula has no limit (bh1,
// noise); a step to sigma 0 is of order 1.
at::Tensor solve_unipc(Model& model, const at::Tensor& latents, const Condition& condition,
                       const Schedule& schedule, const UnipcOptions& options);

// Throws UsageError on values outside their ranges.
UnipcOptions read_unipc_options(const Config& options);
std::shared_ptr<Sampler> make_unipc(const Config& options);

}  // namespace flowmap::samplers
