// The adaptive Runge-Kutta pair of Dormand and Prince (1980), 5(4), with the step control of
// Hairer, Norsett and Wanner (1993), II.4, and Shampine's (1986) dense output, as
// scipy.integrate.solve_ivp(method="RK45") puts them together.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "samplers/log_snr.h"

namespace flowmap::samplers {

struct Rk45Options {
  double rtol = 1e-5, atol = 1e-5;
  // Each row has its own error norm, time and steps, so that rows do not influence each
  // other: the network is asked for all unfinished rows at once, each at its own time.
  // Otherwise the batch is one long vector with one step for all, as scipy has it.
  bool per_row = true;
  FinalSigma final_sigma = FinalSigma::zero;
  bool keep_knots = false;  // states at every knot of the schedule, by dense output
};

struct Rk45Solution {
  at::Tensor final_state;            // [B, sample...] float64, at the last knot
  at::Tensor knots;                  // [knots, B, sample...] float64 if asked for
  std::vector<int64_t> evaluations;  // network evaluations of each row
  std::vector<double> accepted;      // times that row 0 stepped on, the start included
};

// Integrates dx/dk (Ode, samplers/ode.h) from the first knot to the last; those between
// matter for keep_knots alone. The error of a step is measured by the root mean square of
// error / (atol + rtol max(|x|, |x'|)). Denoisers, whose slope is singular at sigma 0, are
// integrated to the last knot above 0, then take D there (an Euler step, its slope known
// already). Throws UsageError where that leaves no interval, Error where the slope is not
// finite or the step becomes too small for the times to differ.
Rk45Solution solve_rk45(Model& model, const at::Tensor& latents, const Condition& condition,
                        const Schedule& schedule, const Rk45Options& options);

// Throws UsageError on values outside their ranges.
Rk45Options read_rk45_options(const Config& options);
std::shared_ptr<Sampler> make_rk45(const Config& options);

}  // namespace flowmap::samplers
