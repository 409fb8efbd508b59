#include "samplers/inversion.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "flowmap/base/error.h"
#include "samplers/log_snr.h"
#include "samplers/ode.h"

namespace flowmap::samplers {
namespace {

// From data to noise.
std::vector<double> inversion_knots(const Schedule& schedule) {
  std::vector<double> knots(schedule.times.rbegin(), schedule.times.rend());
  if (schedule.sigma) std::erase(knots, 0);
  FM_CHECK_USAGE(knots.size() >= 2, "--steps: inversion needs two noise levels above 0 or "
                 "more; give at least two steps");
  return knots;
}

}  // namespace

at::Tensor invert(Model& model, const at::Tensor& samples, const Condition& condition,
                  const Schedule& schedule, bool second_order) {
  const at::NoGradGuard no_grad;
  const std::vector<double> knots = inversion_knots(schedule);
  Ode ode(model, condition, schedule, samples);
  at::Tensor x = samples.to(at::kDouble);
  for (std::size_t i = 0; i + 1 < knots.size(); ++i) {
    const double step = knots[i + 1] - knots[i];
    const at::Tensor slope = ode.slope(x, knots[i]);
    at::Tensor next = x + step * slope;
    if (second_order) next = x + 0.5 * step * (slope + ode.slope(next, knots[i + 1]));
    x = next;
  }
  const double noise = noise_level(model.info(), knots.back()).sigma;
  return (x / noise).to(samples.scalar_type());
}

int64_t inversion_evaluations(const Schedule& schedule, bool second_order) {
  return (static_cast<int64_t>(inversion_knots(schedule).size()) - 1) *
         (second_order ? 2 : 1);
}

at::Tensor slerp(const at::Tensor& a, const at::Tensor& b, double u) {
  std::vector<int64_t> per_row(static_cast<std::size_t>(a.dim()), 1);
  per_row[0] = a.size(0);
  const at::Tensor left = a.flatten(1).to(at::kDouble), right = b.flatten(1).to(at::kDouble);
  const at::Tensor cosine = (left * right).sum(1) /
                            (left.norm(2, 1) * right.norm(2, 1)).clamp_min(1e-300);
  const at::Tensor angle = cosine.clamp(-1, 1).acos();
  const at::Tensor sine = angle.sin();
  // Rows of one direction: the straight line is the limit.
  const at::Tensor flat = sine.lt(1e-7);
  const auto weight = [&](double part) {
    return at::where(flat, at::full_like(sine, part), (angle * part).sin() / sine)
        .view(per_row);
  };
  return (weight(1 - u) * a.to(at::kDouble) + weight(u) * b.to(at::kDouble))
      .to(a.scalar_type());
}

at::Tensor interpolate_latents(const at::Tensor& latents, int64_t n) {
  const int64_t pairs = latents.size(0) - 1;
  if (pairs < 1) return latents;
  const at::Tensor from = latents.slice(0, 0, pairs), to = latents.slice(0, 1, pairs + 1);
  std::vector<at::Tensor> rows;
  for (int64_t k = 0; k < n; ++k)
    rows.push_back(slerp(from, to, static_cast<double>(k) / static_cast<double>(n)));
  // [pairs, n, ...] in the order of the path.
  const at::Tensor path = at::stack(rows, 1).flatten(0, 1);
  return at::cat({path, latents.slice(0, pairs)});
}

}  // namespace flowmap::samplers
