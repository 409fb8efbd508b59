#include "distill/noise_levels.h"

#include <ATen/ATen.h>

namespace flowmap::distill {

NoiseLevels::Sample NoiseLevels::draw(const Draw& rows, const at::Tensor& x) const {
  return {(rows.normal("sigma", {}) * p_std + p_mean).exp().to(x.device()),
          rows.normal("noise", x.sizes().slice(1)).to(x.device())};
}

NoiseLevels read_noise_levels(const Config& method, double p_mean, double p_std) {
  return {method.number("P_mean", p_mean, -10, 10),
          method.number("P_std", p_std, 1e-6, 10)};
}

}  // namespace flowmap::distill
