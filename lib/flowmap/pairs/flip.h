// Is the flip of a pair a pair?
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace flowmap {

// A map from noise [B, C, H, W] to samples of the same shape.
using NoiseMap = std::function<at::Tensor(const at::Tensor& noise)>;

// ||flip(T(n)) - T(flip n)|| / ||T(n)|| of each row, [B] float64; `dimension` is 3 for
// horizontal flips and 2 for vertical ones. 0 where the teacher's ODE commutes with flips, so
// that (flip n, flip y) is a pair as good as (n, y) (SlimFlow, arXiv 2407.12718); about
// sqrt(2) where the two have nothing in common.
at::Tensor flip_equivariance(const NoiseMap& map, const at::Tensor& noise,
                             int64_t dimension = 3);

}  // namespace flowmap
