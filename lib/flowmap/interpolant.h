// The linear interpolant between noise and data (Lipman et al. 2023; rectified flow).
#pragma once

#include <ATen/core/Tensor.h>

namespace flowmap {

struct Interpolated {
  at::Tensor x;       // I_t = (1-t) b n + t x1, [B, sample...]
  at::Tensor target;  // I'_t = x1 - b n
};

// x1, noise [B, sample...], t [B]; noise is unit normal, b its standard deviation.
Interpolated interpolate(const at::Tensor& x1, const at::Tensor& noise,
                         const at::Tensor& t, double base_std);
// [B] -> [B, 1, ...] like `x`.
at::Tensor column_like(const at::Tensor& values, const at::Tensor& x);

}  // namespace flowmap
