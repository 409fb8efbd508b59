// Multistep integration of the slope: DEIS (Zhang and Chen 2023, arXiv 2204.13902) and iPNDM.
#pragma once

#include <vector>

#include "samplers/log_snr.h"

namespace flowmap::samplers {

enum class SlopePolynomial {
  rho,      // in the knots themselves (sigma, or t): rho-AB, Adams-Bashforth of any steps
  log_rho,  // in log sigma; denoisers only
  equal     // Adams-Bashforth as if steps were equal: iPNDM
};

struct DeisOptions {
  int64_t order = 3;  // 1 to 4 evaluations
  SlopePolynomial polynomial = SlopePolynomial::rho;
  // In runs of fewer than 15 steps the last ones are of orders ..., 2, 1.
  bool lower_order_final = false;
  FinalSigma final_sigma = FinalSigma::zero;
};

// The weights c_j of x' = x + sum_j c_j d_j: the integrals from nodes[0] to `next` of the
// Lagrange polynomials through `nodes`, newest first; exact to float64's rounding.
std::vector<double> deis_weights(const std::vector<double>& nodes, double next,
                                 SlopePolynomial polynomial);

// latents: unit normals [B, sample...]; the sample in float64. Integrates dx/dk (Ode,
// samplers/ode.h) with the last `order` slopes. log_rho steps to sigma 0 by order 1.
at::Tensor solve_deis(Model& model, const at::Tensor& latents, const Condition& condition,
                      const Schedule& schedule, const DeisOptions& options);

// Throws UsageError on values outside their ranges.
DeisOptions read_deis_options(const Config& options);
std::shared_ptr<Sampler> make_deis(const Config& options);
DeisOptions read_ipndm_options(const Config& options);
std::shared_ptr<Sampler> make_ipndm(const Config& options);

}  // namespace flowmap::samplers
