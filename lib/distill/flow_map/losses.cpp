#include "distill/flow_map/losses.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <initializer_list>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/interpolant.h"
#include "flowmap/ops.h"

namespace flowmap::distill {
namespace {

at::Tensor residual_norm(const at::Tensor& residual) {
  return residual.flatten(1).square().sum(1);
}

Dual moving(const at::Tensor& time) { return {time, at::ones_like(time)}; }

at::Tensor gap(const MapSamples& at) { return column_like(at.t - at.s, at.x); }

void allow(StopGradient stop, std::initializer_list<StopGradient> known, const char* loss) {
  for (const StopGradient item : known)
    if (stop == item) return;
  throw UsageError(std::string("the ") + loss + " loss has no such stop-gradient");
}

}  // namespace

at::Tensor average_velocity_loss(Model& student, const MapSamples& at,
                                 const at::Tensor& target, Context& context) {
  const at::Tensor v =
      student.average_velocity(at.x, at.s, at.t, at.condition, context).value;
  return residual_norm(v - target);
}

at::Tensor lagrangian_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                           Context& context, StopGradient stop) {
  allow(stop, {StopGradient::convex, StopGradient::none, StopGradient::detached},
        "Lagrangian");
  const Dual v =
      student.average_velocity(at.x, at.s, moving(at.t), at.condition, context);
  const at::Tensor h = gap(at);
  const at::Tensor landing = at.x + h * v.value;
  at::Tensor slope = ops::tangent_or_zeros(v);  // v may not depend on t
  if (stop == StopGradient::detached) slope = slope.detach();
  const at::Tensor derivative = v.value + h * slope;
  at::Tensor velocity;
  {
    const at::AutoGradMode through(stop == StopGradient::none &&
                                   at::GradMode::is_enabled());
    velocity = teacher.velocity(landing, at.t, at.condition, at.teacher_guidance,
                                context);
  }
  return residual_norm(derivative - velocity);
}

at::Tensor eulerian_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                         Context& context, StopGradient stop) {
  const at::Tensor h = gap(at);
  at::Tensor velocity;
  {
    const at::AutoGradMode through(stop == StopGradient::none &&
                                   at::GradMode::is_enabled());
    velocity =
        teacher.velocity(at.x, at.s, at.condition, at.teacher_guidance, context);
  }
  if (stop != StopGradient::full) {  // one derivative along (1, b)
    const Dual v = student.average_velocity(Dual(at.x, velocity), moving(at.s), at.t,
                                            at.condition, context);
    at::Tensor slope = ops::tangent_or_zeros(v);
    if (stop == StopGradient::detached) slope = slope.detach();
    return residual_norm(velocity - v.value + h * slope);
  }
  at::Tensor advected;
  {
    const at::NoGradGuard no_grad;
    const Teacher map = teacher.has_map() ? teacher : Teacher(student);
    const Dual v = map.average_velocity(Dual(at.x, velocity), at.s, at.t, at.condition,
                                        at.teacher_guidance, context);
    advected = velocity + h * ops::tangent_or_zeros(v);
  }
  const Dual v =
      student.average_velocity(at.x, moving(at.s), at.t, at.condition, context);
  return residual_norm(h * ops::tangent_or_zeros(v) - v.value + advected);
}

at::Tensor semigroup_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                          const at::Tensor& g, Context& context,
                          const SemigroupOptions& options) {
  allow(options.stop, {StopGradient::convex, StopGradient::none}, "semigroup");
  at::Tensor target;
  {
    const at::AutoGradMode through(options.stop == StopGradient::none &&
                                   at::GradMode::is_enabled());
    const at::Tensor u = g * at.s + (1 - g) * at.t;
    const at::Tensor share = column_like(g, at.x);
    const auto jump = [&](const at::Tensor& x, const at::Tensor& from, const at::Tensor& to) {
      return teacher
          .average_velocity(x, from, to, at.condition, at.teacher_guidance, context)
          .value;
    };
    const at::Tensor first = jump(at.x, at.s, u);
    const at::Tensor second = jump(at.x + column_like(u - at.s, at.x) * first, u, at.t);
    target = (1 - share) * first + share * second;
    if (options.clip > 0) target = target.clamp(-options.clip, options.clip);
  }
  const at::Tensor raw = average_velocity_loss(student, at, target, context);
  return options.preconditioned ? raw : (at.t - at.s).square() * raw;
}

at::Tensor tangent_loss(Model& student, const MapSamples& at, const at::Tensor& base,
                        const at::Tensor& tangent, Context& context,
                        const TangentOptions& options) {
  const Dual v = student.average_velocity(Dual(at.x, tangent), moving(at.s), at.t,
                                          at.condition, context);
  at::Tensor wanted;
  {
    const at::NoGradGuard no_grad;
    const at::Tensor h = gap(at).clamp_max(options.max_gap);
    wanted = base + options.warmup * h * ops::tangent_or_zeros(v);
    if (options.normalize) {
      at::Tensor g = wanted - v.value;
      if (options.invariant) g = g / std::sqrt(static_cast<double>(at.x[0].numel()));
      const at::Tensor size = residual_norm(g).sqrt() + options.c;
      wanted = v.value + g / column_like(size.pow(options.p), g);
    }
  }
  return residual_norm(v.value - wanted);
}

at::Tensor alpha_flow_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                           const at::Tensor& base, double alpha, Context& context) {
  FM_CHECK(alpha > 0 && alpha <= 1, "alpha-Flow: alpha = ", alpha, " is not in (0, 1]");
  at::Tensor wanted = base;
  if (alpha < 1) {
    const at::NoGradGuard no_grad;
    const at::Tensor u = at.s + alpha * (at.t - at.s);
    const at::Tensor onward =
        teacher
            .average_velocity(at.x + alpha * gap(at) * base, u, at.t, at.condition,
                              at.teacher_guidance, context)
            .value;
    wanted = alpha * base + (1 - alpha) * onward;
  }
  return average_velocity_loss(student, at, wanted, context) / alpha;
}

at::Tensor chord_loss(Model& student, const Teacher& teacher, const MapSamples& at,
                      int64_t steps, Context& context) {
  FM_CHECK(steps >= 1, "chord regression: at least one step, not ", steps);
  at::Tensor slope;
  {
    const at::NoGradGuard no_grad;
    const at::Tensor size = (at.t - at.s) / static_cast<double>(steps);
    const at::Tensor k = column_like(size, at.x);
    at::Tensor x = at.x;
    at::Tensor total = at::zeros_like(x);  // sum of the slopes: no division by a small h
    for (int64_t i = 0; i < steps; ++i) {
      const auto velocity = [&](const at::Tensor& point, double share) {
        return teacher.velocity(point, at.s + size * (static_cast<double>(i) + share),
                                at.condition, at.teacher_guidance, context);
      };
      const at::Tensor a = velocity(x, 0), b = velocity(x + 0.5 * k * a, 0.5);
      const at::Tensor c = velocity(x + 0.5 * k * b, 0.5), d = velocity(x + k * c, 1);
      const at::Tensor mean = (a + 2 * b + 2 * c + d) / 6;
      x = x + k * mean;
      total = total + mean;
    }
    slope = total / static_cast<double>(steps);
  }
  return average_velocity_loss(student, at, slope, context);
}

at::Tensor two_sided_loss(Model& student, const MapSamples& at, Context& context,
                          bool round_trip) {
  const at::Tensor back =
      at.x + column_like(at.s - at.t, at.x) *
                 student.average_velocity(at.x, at.t, at.s, at.condition, context).value;
  const Dual v =
      student.average_velocity(back, at.s, moving(at.t), at.condition, context);
  const at::Tensor h = gap(at);
  at::Tensor loss =
      residual_norm(v.value + h * ops::tangent_or_zeros(v) - at.velocity);
  if (round_trip) loss = loss + residual_norm(back + h * v.value - at.x);
  return loss;
}

at::Tensor mixed_velocity(Model& student, const MapSamples& at, double omega, double kappa,
                          Context& context) {
  const at::NoGradGuard no_grad;
  if (omega == 1 && kappa == 0) return at.velocity;
  Condition plain = at.condition;
  plain.guidance = at::Tensor();
  at::Tensor mixed = omega * at.velocity;
  if (kappa != 0)
    mixed = mixed + kappa * student.velocity(at.x, at.s, plain, context).value;
  FM_CHECK_USAGE(plain.class_labels.defined(), "guided targets need classes");
  const at::Tensor classed = plain.class_labels.ne(0).any(1);
  plain.class_labels = at::Tensor();
  mixed = mixed + (1 - omega - kappa) * student.velocity(at.x, at.s, plain, context).value;
  return at::where(column_like(classed, at.x), mixed, at.velocity);
}

}  // namespace flowmap::distill
