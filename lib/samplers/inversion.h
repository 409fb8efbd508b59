// From samples back to the latents that give them, and between latents.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "samplers/sampler.h"

namespace flowmap::samplers {

// Integrates the deterministic ODE from data to noise over the knots of `schedule`, taken
// backwards, by Heun's method (`second_order`) or Euler's; flow maps by their velocity
// v_{t,t}. samples [B, sample...] as the network sees data; returns latents [B, sample...],
// unit normals of the model's own samples, in the precision of `samples`. Sampling with
// euler or heun on the same schedule gives the samples back, up to the error of the two
// integrations. Denoisers begin at their lowest level above 0, where the slope is still
// finite, with the samples as they are. No gradients. Throws UsageError where the unit of
// the schedule is not the model's or it has no two knots above sigma 0.
at::Tensor invert(Model& model, const at::Tensor& samples, const Condition& condition,
                  const Schedule& schedule, bool second_order);
// Network evaluations of invert.
int64_t inversion_evaluations(const Schedule& schedule, bool second_order);

// Spherical interpolation (Shoemake 1985) of each row, between a [B, sample...] at 0 and b
// at 1: sin((1-u) w)/sin w a + sin(u w)/sin w b, w the angle between the rows.
at::Tensor slerp(const at::Tensor& a, const at::Tensor& b, double u);
// Rows i + k/n between consecutive rows i of latents [S, sample...], k from 0 to n - 1, and
// the last row: [(S-1) n + 1, sample...].
at::Tensor interpolate_latents(const at::Tensor& latents, int64_t n);

}  // namespace flowmap::samplers
