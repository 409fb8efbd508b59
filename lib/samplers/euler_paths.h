// Paths of a model by uniform Euler steps, and how far each is from a straight line at even
// speed, where one step is exact (Liu et al. 2023, arXiv 2209.03003): for training, path by
// path. boss/straightness.h sums over many batches and any anchors.
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/model.h"

namespace flowmap::samplers {

struct EulerPaths {
  at::Tensor states;      // [N + 1, B, sample...]: Z_0 at t = 0, ..., Z_1
  at::Tensor velocities;  // [N, B, sample...], at the first N states
};
// N steps from b n, latents n [B, sample...] unit normals; float64. Models of one time, and
// flow maps by their velocity; times are clamped to the model's range. No gradients.
EulerPaths euler_paths(Model& model, const at::Tensor& latents, const Condition& condition,
                       int64_t steps);

// By time and path: | (Z_1 - Z_0) - v |^2, a sum over dimensions, [N, B]. Its mean is the
// straightness of Liu et al.; over the dimensions, that of rfpp; the mean of its root, what
// SlimFlow's program prints.
at::Tensor deviation_by_time(const EulerPaths& paths);
// By time and path: | dv/dt |^2 from the velocities at the two ends of each step but the
// last, a sum over dimensions, [N - 1, B].
at::Tensor curvature_by_time(const EulerPaths& paths);

// Mean squared difference over the dimensions between where paths end and `data`, what a
// teacher made of the same noise: [B].
at::Tensor pair_error(const at::Tensor& end, const at::Tensor& data);

}  // namespace flowmap::samplers
