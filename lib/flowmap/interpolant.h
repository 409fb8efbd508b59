// Interpolants between noise and data: I_t = alpha(t) b n + beta(t) x1 (Albergo et al. 2023,
// arXiv 2303.08797).
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/model.h"

namespace flowmap {

struct Interpolated {
  at::Tensor x;       // I_t, [B, sample...]; linear: (1-t) b n + t x1
  at::Tensor target;  // I'_t; linear: x1 - b n
};

// x1, noise [B, sample...], t [B]; noise is unit normal, b its standard deviation.
Interpolated interpolate(const at::Tensor& x1, const at::Tensor& noise,
                         const at::Tensor& t, double base_std,
                         Interpolant interpolant = Interpolant::linear);
// [B] -> [B, 1, ...] like `x`.
at::Tensor column_like(const at::Tensor& values, const at::Tensor& x);

}  // namespace flowmap
