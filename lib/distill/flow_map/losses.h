// Residuals of flow maps as pure functions of network calls: raw per-sample values, [B], a
// SUM over dimensions, at samples x = I_s with s <= t and h = t - s (Boffi, Albergo,
// Vanden-Eijnden 2025, arXiv 2505.18825, and the papers named below).
#pragma once

#include <ATen/core/Tensor.h>

#include "distill/flow_map/teacher.h"
#include "flowmap/model.h"

namespace flowmap::distill {

struct MapSamples {
  at::Tensor x;         // I_s, [B, sample...]
  at::Tensor velocity;  // I'_s, the sample's own velocity; what needs it says so
  at::Tensor s, t;      // [B]
  Condition condition;  // what the maps are conditioned on
  // [B], the scale that the teacher's velocity is guided by; undefined: not guided. A map
  // that takes the scale finds it in `condition` too.
  at::Tensor teacher_guidance;
};

// What is cut from the gradient, as each loss allows.
enum class StopGradient {
  convex,    // the teacher's velocity, and where it is evaluated
  none,      // nothing: the teacher's Jacobian takes part
  full,      // Eulerian: convex, and the spatial derivative
  detached,  // convex, and every derivative of the map
};

// | v_{s,t}(x) - target |^2; target [B, sample...] without gradients.
at::Tensor average_velocity_loss(Model& student, const MapSamples& at,
                                 const at::Tensor& target, Context& context);

// Lagrangian: | d/dt X_{s,t}(x) - b_t(X_{s,t}(x)) |^2, b the teacher's velocity. The
// derivative is the exact Jacobian-vector product in t and is differentiated through.
// convex is what the paper recommends; detached has the gradient of Align Your Flow's
// Lagrangian form (Sabour et al. 2025, arXiv 2506.14603).
at::Tensor lagrangian_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                           Context& context, StopGradient stop);

// Eulerian: | d/ds X_{s,t}(x) + grad X_{s,t}(x) b_s(x) |^2. full is what the paper
// recommends: the spatial derivative is of the teacher's map (of the student's where the
// teacher has none) without gradients, that in s is differentiated through.
at::Tensor eulerian_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                         Context& context, StopGradient stop);

// Semigroup: | v_{s,t}(x) - (1-g) v_{s,u}(x) - g v_{u,t}(X_{s,u}(x)) |^2 at u = g s +
// (1-g) t, both half steps the teacher's; g [B] in [0, 1], 1/2 for midpoints. With
// `preconditioned` off it is times h^2: the residual of X itself. A `clip` above 0 bounds
// each value of the target (shortcut models, Frans et al. 2024, arXiv 2410.12557). stop:
// convex or none.
struct SemigroupOptions {
  StopGradient stop = StopGradient::convex;
  bool preconditioned = true;
  double clip = 0;
};
at::Tensor semigroup_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                          const at::Tensor& g, Context& context,
                          const SemigroupOptions& options = {});

// | v - sg( a + h (d/ds v + grad v . w) ) |^2 with velocities a, w: consistency distillation
// and training, MeanFlow (Geng et al. 2025, arXiv 2505.13447), improved MeanFlow
// (arXiv 2512.02012).
struct TangentOptions {
  double warmup = 1;   // factor on h times the derivative (sCM, arXiv 2410.11081)
  double max_gap = 1;  // h counts as this at most (FastGen: 0.999)
  // The residual g becomes g / (|g| + c)^p, with `invariant` over g / sqrt(d), d the
  // dimensions of a sample: tangent normalisation (sCM).
  bool normalize = false, invariant = true;
  double c = 0.1, p = 1;
};
// `base` is a, `tangent` w, [B, sample...], no gradients.
at::Tensor tangent_loss(Model& student, const MapSamples& at, const at::Tensor& base,
                        const at::Tensor& tangent, Context& context,
                        const TangentOptions& options = {});

// (1/alpha) | v_{s,t}(x) - sg( alpha a + (1-alpha) v_{u,t}(x + alpha h a) ) |^2 at u = s +
// alpha h, the map the teacher's; alpha in (0, 1], `base` is a (alpha-Flow, arXiv
// 2510.20771).
at::Tensor alpha_flow_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                           const at::Tensor& base, double alpha, Context& context);

// | v_{s,t}(x) - (x_t - x) / h |^2, x_t from `steps` fourth-order Runge-Kutta steps of the
// teacher's velocity from (x, s): chord regression (CMT, arXiv 2509.24526).
at::Tensor chord_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                      int64_t steps, Context& context);

// Both sides of a flow map without a teacher: | d/dt X_{s,t}(X_{t,s}(I_t)) - I'_t |^2 +
// | X_{s,t}(X_{t,s}(I_t)) - I_t |^2, any order of s and t, gradients through all (Boffi et
// al. 2024, arXiv 2406.07507). at.x is I_t and at.velocity I'_t here. `round_trip` off
// leaves the second term out, as their code does.
at::Tensor two_sided_loss(Model& student, const MapSamples& at, Context& context,
                          bool round_trip = true);

// What MeanFlow learns from under guidance: omega a + (1 - omega - kappa) v(x; null) +
// kappa v(x; c) at (x, s), a the sample's own velocity; a itself where the sample has no
// class (Geng et al. 2025, eq. 19). No gradients.
at::Tensor mixed_velocity(Model& student, const MapSamples& at, double omega, double kappa,
                          Context& context);

}  // namespace flowmap::distill
