// The noise that EDM's losses train at: ln sigma ~ N(P_mean, P_std^2) (Karras et al. 2022,
// arXiv 2206.00364, section 5).
#pragma once

#include <ATen/core/Tensor.h>

#include "distill/method.h"

namespace flowmap::distill {

struct NoiseLevels {
  double p_mean, p_std;

  struct Sample {
    at::Tensor sigma;  // [b]
    at::Tensor noise;  // unit normals like the batch
  };
  // Streams "sigma" and "noise"; on the device of `x`, [b, sample...].
  Sample draw(const Draw& rows, const at::Tensor& x) const;
};
// method.P_mean and method.P_std, with the paper's values as defaults.
NoiseLevels read_noise_levels(const Config& method, double p_mean, double p_std);

}  // namespace flowmap::distill
