#include "samplers/jumps.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "flowmap/base/error.h"
#include "samplers/ode.h"

namespace flowmap::samplers {
namespace {

void require_flow_map(const ModelInfo& info) {
  if (info.kind != ModelKind::flow_map)
    throw UsageError("--solver flow_map: needs a model of two times, but this one is a " +
                     std::string(model_kind_name(info.kind)) +
                     "; use --solver euler, heun or consistency");
}

// Noise over data at a knot, and back.
double ratio_at(const ModelInfo& info, double knot) {
  const NoiseLevel level = noise_level(info, knot);
  return level.sigma / level.alpha;
}
double knot_of_ratio(const ModelInfo& info, double ratio) {
  if (info.kind == ModelKind::denoiser) return ratio;
  if (ratio == 0) return 1;
  return t_from_sigma(Dual(at::scalar_tensor(ratio, at::kDouble)), info.base_std,
                      info.interpolant)
      .value.item<double>();
}

class Jumps {
 public:
  Jumps(Model& model, const Condition& condition, const Schedule& schedule,
        const at::Tensor& latents)
      : info_(model.info()),
        ode_(model, condition, schedule, latents),
        predictor_(model, condition, schedule, latents) {}

  at::Tensor start(const at::Tensor& latents) const { return ode_.start(latents); }
  at::Tensor jump(const at::Tensor& x, double from, double to) {
    if (info_.kind == ModelKind::flow_map)
      return x + (to - from) * ode_.average_velocity(x, from, to);
    const NoiseLevel now = predictor_.level(from), then = predictor_.level(to);
    const at::Tensor data = predictor_.denoised(x, from);
    if (then.sigma == 0) return then.alpha * data;
    return then.alpha * data + then.sigma / now.sigma * (x - now.alpha * data);
  }

 private:
  ModelInfo info_;
  Ode ode_;
  DataPredictor predictor_;
};

}  // namespace

at::Tensor solve_jumps(Model& model, const at::Tensor& latents, const Condition& condition,
                       const Schedule& schedule, const JumpOptions& options,
                       const NoiseSource& noise) {
  const at::NoGradGuard no_grad;
  const ModelInfo info = model.info();
  const std::size_t steps = schedule.times.size() - 1, given = options.churn.size();
  FM_CHECK_USAGE(given == 1 || given == steps, "--churn: ", given, " numbers for ", steps,
                 " steps; give one, or one a step");
  Jumps jumps(model, condition, schedule, latents);
  at::Tensor x = jumps.start(latents);
  for (std::size_t i = 0; i < steps; ++i) {
    const double gamma = options.churn[given == 1 ? 0 : i];
    const double now = schedule.times[i], next = schedule.times[i + 1];
    const double level = ratio_at(info, next);
    if (gamma == 0 || level <= options.epsilon) {
      x = jumps.jump(x, now, next);
      continue;
    }
    const double lower = std::sqrt(1 - gamma * gamma) * level;
    const double knot = knot_of_ratio(info, lower);
    x = jumps.jump(x, now, knot);
    const double left = std::max(lower, options.epsilon);
    const double scale = noise_level(info, next).alpha;
    const double deviation = scale * std::sqrt(level * level - left * left);
    x = x * (scale / noise_level(info, knot).alpha) +
        noise(i).to(x.options()) * (deviation * options.s_noise);
  }
  return x;
}

namespace {

class JumpSampler : public Sampler {
 public:
  JumpSampler(JumpOptions options, bool flow_maps_only)
      : options_(std::move(options)), flow_maps_only_(flow_maps_only) {}

  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw& draw) const override {
    if (flow_maps_only_) require_flow_map(model.info());
    return solve_jumps(model, latents, condition, schedule, options_,
                       noise_of(draw, latents))
        .to(latents.scalar_type());
  }
  int64_t evaluations(const ModelInfo& info, const Schedule& schedule) const override {
    if (flow_maps_only_) require_flow_map(info);
    return static_cast<int64_t>(schedule.times.size()) - 1;
  }

 private:
  JumpOptions options_;
  bool flow_maps_only_;
};

std::shared_ptr<Sampler> make_jumps(const Config& options, double churn,
                                    bool flow_maps_only) {
  JumpOptions o;
  o.churn = options.numbers("churn", std::vector<double>{churn});
  FM_CHECK_USAGE(!o.churn.empty(), options.where("churn"), ": churn holds no number");
  for (const double gamma : o.churn)
    FM_CHECK_USAGE(gamma >= 0 && gamma <= 1, options.where("churn"), ": churn of jumps "
                   "lies between 0 (none) and 1 (all noise anew), not ", gamma);
  o.s_noise = options.number("S_noise", 1, 0);
  o.epsilon = options.number("epsilon", 0, 0);
  return std::make_shared<JumpSampler>(std::move(o), flow_maps_only);
}

}  // namespace

std::shared_ptr<Sampler> make_flow_map(const Config& options) {
  return make_jumps(options, 0, true);
}
std::shared_ptr<Sampler> make_consistency(const Config& options) {
  return make_jumps(options, 1, false);
}

}  // namespace flowmap::samplers
