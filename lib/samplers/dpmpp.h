// DPM-Solver++, multistep (Lu et al. 2022, arXiv 2211.01095).
#pragma once

#include "samplers/log_snr.h"

namespace flowmap::samplers {

struct DpmppOptions {
  int64_t order = 2;     // 1, 2 (2M) or 3 (3M)
  bool midpoint = true;  // weight of the slope at order 2; false: the exact integral ("heun")
  // In runs of fewer than 15 steps the last but one is of order 2 and the last of order 1,
  // as the authors do. A step to sigma 0 is of order 1 always: its step in lambda is
  // infinite.
  bool lower_order_final = true;
  bool euler_at_final = false;  // the last step is of order 1 in longer runs too
  // Integrate the noise in x in place of the data: DPM-Solver (arXiv 2206.00927).
  bool predict_noise = false;
  // 0: the ODE; 1: the reverse SDE (SDE-DPM-Solver++); between them, and above, SDEs with
  // that share of its noise (the family of Song et al. 2021 with the same marginals).
  double eta = 0;
  // Order 3 with the second difference in full. The authors' formula takes half of it, which
  // makes the method of second order (measured in the tests); peers agree with the authors.
  bool full_second_difference = false;
  FinalSigma final_sigma = FinalSigma::zero;
};

// latents: unit normals [B, sample...]; the sample in float64. Between knots s and t, h the
// growth of lambda, D interpolated by a polynomial in lambda through the last `order`
// evaluations. Started by lower orders; after a start at t = 0, where lambda is -inf, the
// differences to that point vanish, which lowers the order of the next step by one.
at::Tensor solve_dpmpp(Model& model, const at::Tensor& latents, const Condition& condition,
                       const Schedule& schedule, const DpmppOptions& options,
                       const NoiseSource& noise);

// Throws UsageError on values outside their ranges.
DpmppOptions read_dpmpp_options(const Config& options);
std::shared_ptr<Sampler> make_dpmpp(const Config& options);

}  // namespace flowmap::samplers
