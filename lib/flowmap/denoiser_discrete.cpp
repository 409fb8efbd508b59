// Denoisers of discrete noise levels.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/denoiser.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

// c_in, c_out of a network that predicts the noise n of x_sigma = x + sigma n out of
// x_sigma / sqrt(1 + sigma^2).
DenoiserScalings predicts_noise(const Dual& sigma) {
  DenoiserScalings s;
  s.c_out = ops::neg(sigma);
  s.c_in = ops::div(Dual(at::ones_like(sigma.value)),
                    ops::sqrt(ops::add_scalar(sigma * sigma, 1)));
  return s;
}

// u_M = 0, u_{j-1}^2 = (u_j^2 + 1) / max(abar_{j-1} / abar_j, C_1) - 1 with abar_j =
// sin^2(pi/2 j / (M (C_2 + 1))), in float32 like the table in EDM's files.
at::Tensor iddpm_levels(double c_1, double c_2, int64_t count) {
  const at::Tensor angle =
      at::arange(count + 1, at::kFloat) * (0.5 * std::numbers::pi) / count / (c_2 + 1);
  const at::Tensor alpha_bar = angle.sin().square();
  const float* bar = alpha_bar.const_data_ptr<float>();
  at::Tensor levels = at::zeros({count + 1});
  float* u = levels.mutable_data_ptr<float>();
  for (int64_t j = count; j > 0; --j) {
    const float ratio = std::max(bar[j - 1] / bar[j], static_cast<float>(c_1));
    const float square = u[j] * u[j];
    u[j - 1] = std::sqrt((square + 1) / ratio - 1);
  }
  return levels;
}

// sigma_k = sqrt((1 - abar_k) / abar_k), rising, float64.
at::Tensor ddpm_levels(double beta_start, double beta_end, int64_t count) {
  std::vector<double> sigma;
  double log_bar = 0;  // 1 - abar loses digits at small k, log does not
  for (int64_t k = 0; k < count; ++k) {
    log_bar += std::log1p(-(beta_start + (beta_end - beta_start) * static_cast<double>(k) /
                                             static_cast<double>(count - 1)));
    sigma.push_back(std::sqrt(std::expm1(-log_bar)));
  }
  return at::tensor(sigma, at::kDouble);
}

// Position of sigma among rising levels, linear in log sigma between two of them, the
// ends beyond the ends.
Dual level_between(const Dual& sigma, const at::Tensor& log_levels) {
  const Dual y = ops::log(sigma);
  const at::Tensor at_knots = log_levels.to(y.value.options());
  const int64_t last = log_levels.size(0) - 1;
  const at::Tensor below =
      (at::searchsorted(at_knots, y.value.detach().contiguous()) - 1).clamp(0, last - 1);
  const at::Tensor low = at_knots.index_select(0, below);
  const at::Tensor width = at_knots.index_select(0, below + 1) - low;
  const Dual part = ops::div(y - Dual(low), Dual(width));
  return ops::clamp(part + Dual(below.to(y.value.scalar_type())), 0,
                    static_cast<double>(last));
}

}  // namespace

at::Tensor nearest_level(const at::Tensor& sigma, const at::Tensor& levels) {
  const at::Tensor known = levels.to(sigma.device(), at::kFloat);
  return (sigma.to(at::kFloat).unsqueeze(-1) - known).abs().argmin(-1);
}

DenoiserRule iddpm_rule(const Config& options) {
  const double c_1 = options.number("C_1", 0.001, 1e-9, 1);
  const double c_2 = options.number("C_2", 0.008, 1e-9, 10);
  const int64_t count = options.integer("M", 1000, 2, 1 << 20);
  DenoiserRule rule;
  rule.levels = iddpm_levels(c_1, c_2, count);
  rule.levels_buffer = "u";
  rule.out_factor = 2;
  rule.about.sigma_min = rule.levels[count - 1].item<double>();
  rule.about.sigma_max = rule.levels[0].item<double>();
  rule.scalings = [levels = rule.levels, count](const Dual& sigma) {
    DenoiserScalings s = predicts_noise(sigma);
    const at::Tensor index = nearest_level(sigma.value.detach(), levels);
    s.c_noise = Dual((count - 1 - index).to(sigma.value.scalar_type()));
    return s;
  };
  return rule;
}

DenoiserRule ddpm_rule(const Config& options) {
  const double beta_start = options.number("beta_start", 1e-4, 1e-9, 0.999);
  const double beta_end = options.number("beta_end", 0.02, 1e-9, 0.999);
  const int64_t count = options.integer("M", 1000, 2, 1 << 20);
  const bool round = options.boolean("round", false);
  DenoiserRule rule;
  const at::Tensor levels = ddpm_levels(beta_start, beta_end, count);
  if (round) rule.levels = levels;
  rule.about.sigma_min = levels[0].item<double>();
  rule.about.sigma_max = levels[count - 1].item<double>();
  rule.scalings = [levels, log_levels = levels.log(), round](const Dual& sigma) {
    DenoiserScalings s = predicts_noise(sigma);
    s.c_noise = round ? Dual(nearest_level(sigma.value.detach(), levels)
                                 .to(sigma.value.scalar_type()))
                      : level_between(sigma, log_levels);
    return s;
  };
  return rule;
}

}  // namespace flowmap
