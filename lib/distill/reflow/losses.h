// Losses over pairs of noise and sample, as pure functions: raw per-sample values, [B], MEANS
// over dimensions. Paths start at x0 = b n, b the deviation of the model's noise.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "distill/flow_map/teacher.h"
#include "flowmap/base/config.h"
#include "flowmap/model.h"
#include "flowmap/perceptual/distance.h"

namespace flowmap::distill {

// Mean over the dimensions of (a - b)^2.
at::Tensor mean_square(const at::Tensor& a, const at::Tensor& b);
// (sqrt(|a - b|^2 + c^2) - c) / d, d the dimensions of a sample and c = relative_c d, not
// sqrt(d) (Lee et al. 2024, arXiv 2405.20320, rfpp's code).
at::Tensor pseudo_huber(const at::Tensor& a, const at::Tensor& b,
                        double relative_c = 0.00054);

// How a velocity that should lead in a straight line from x0 to `end` is judged. Only l2 has
// its minimum at the mean: the others ask for pairs that leave nothing to average over, so no
// annealing.
struct EndLoss {
  enum class Rule { l2, huber, perceptual };
  Rule rule = Rule::l2;
  double relative_c = 0.00054;
  std::shared_ptr<PerceptualDistance> distance;

  // l2: mean (v - (end - x0))^2; huber: of the same two; perceptual: M(x0 + v, end).
  at::Tensor operator()(const at::Tensor& x0, const at::Tensor& velocity,
                        const at::Tensor& end) const;
};
// method "loss": "l2" | "huber" | "lpips" | "classifier", and what belongs to it: "huber_c",
// "perceptual" (its object). `shape`: of a sample.
EndLoss read_end_loss(const Config& method, const std::vector<int64_t>& shape,
                      const std::string& by_default);

// Losses of reflow at any time (Lee et al. 2024): l2 and huber compare velocities, the others
// add a perceptual distance of x_t + (1 - t) v to the sample:
//   t Huber + M (their configuration E), t Huber + M / (1 - t) (F).
struct ReflowLoss {
  enum class Rule { l2, huber, perceptual, perceptual_over_time };
  Rule rule = Rule::l2;
  double relative_c = 0.00054;
  std::shared_ptr<PerceptualDistance> distance;

  // x = x_t, `slope` = y - x0, t [B].
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& velocity,
                        const at::Tensor& slope, const at::Tensor& data,
                        const at::Tensor& t) const;
};
// method "loss": "l2" | "huber" | "lpips_huber" | "classifier_huber"; "perceptual_weight":
// "one" | "inverse_time".
ReflowLoss read_reflow_loss(const Config& method, const std::vector<int64_t>& shape);

// Where two steps lead (SlimFlow, section 3.2): x~ = x0 + t w, then x~ + (1 - t) b_t(x~), b
// the guide's velocity; no gradients. `first`: w, of the student or the guide. t [B].
struct TwoSteps {
  at::Tensor middle, end;
};
TwoSteps two_step_target(const Teacher& guide, const at::Tensor& x0,
                         const at::Tensor& first, const at::Tensor& t,
                         const Condition& condition, Context& context);

// The slope of two Euler steps of half the length from (x, s): 1/2 (b_s(x) + b_u(x + (u-s)
// b_s(x))) at u = s + h/2, which one step of a student should have (Salimans and Ho 2022,
// arXiv 2202.00512, in velocities); no gradients. s [B].
at::Tensor halving_target(const Teacher& teacher, const at::Tensor& x, const at::Tensor& s,
                          double h, const Condition& condition, Context& context);

}  // namespace flowmap::distill
