#include "samplers/log_snr.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "flowmap/base/error.h"
#include "samplers/ode.h"

namespace flowmap::samplers {

double NoiseLevel::log_snr() const {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (sigma == 0) return kInfinity;
  return alpha == 0 ? -kInfinity : std::log(alpha) - std::log(sigma);
}

NoiseLevel noise_level(const ModelInfo& info, double knot) {
  if (info.kind == ModelKind::denoiser) return {1, knot};
  if (info.interpolant == Interpolant::linear) return {knot, info.base_std * (1 - knot)};
  if (knot == 1) return {1, 0};  // cos(pi/2) is not 0 in floating point
  const double angle = std::numbers::pi / 2 * knot;
  return {std::sin(angle), info.base_std * std::cos(angle)};
}

DataPredictor::DataPredictor(Model& model, const Condition& condition,
                             const Schedule& schedule, const at::Tensor& latents)
    : model_(model),
      condition_(condition),
      info_(model.info()),
      first_(schedule.times.front()),
      network_options_(network_options(model, latents)) {
  FM_CHECK_USAGE(schedule.sigma == (info_.kind == ModelKind::denoiser), "schedule '",
                 schedule.source, "' is in ", schedule.sigma ? "sigma" : "time",
                 ", but the model is a ", model_kind_name(info_.kind));
}

at::Tensor DataPredictor::start(const at::Tensor& latents) const {
  return latents.to(at::kDouble) * level(first_).sigma;
}

at::Tensor DataPredictor::denoised(const at::Tensor& x, double knot) {
  const at::Tensor input = x.to(network_options_);
  const auto times = [&](double value) {
    return at::full({x.size(0)}, value, network_options_);
  };
  if (info_.kind == ModelKind::denoiser)
    return model_.denoise(input, times(knot), condition_, context_).value.to(at::kDouble);
  const at::Tensor v =
      model_
          .velocity(input, times(std::clamp(knot, info_.t_min, info_.t_max)), condition_,
                    context_)
          .value.to(at::kDouble);
  if (info_.interpolant == Interpolant::linear) return x + (1 - knot) * v;
  // x = sin(a) x1 + cos(a) b n and v = (pi/2)(cos(a) x1 - sin(a) b n), a = pi t/2.
  const double angle = std::numbers::pi / 2 * knot;
  return std::sin(angle) * x + 2 / std::numbers::pi * std::cos(angle) * v;
}

NoiseSource noise_of(const Draw& draw, const at::Tensor& latents) {
  const std::vector<int64_t> shape = latents.sizes().slice(1).vec();
  const at::Device device = latents.device();
  return [draw, shape, device](std::size_t step) {
    return draw.fork("step" + std::to_string(step))
        .normal("noise", shape)
        .to(device, at::kDouble);
  };
}

FinalSigma read_final_sigma(const Config& options) {
  static const std::vector<std::string> choices{"zero", "sigma_min"};
  return options.choice("final_sigma", choices, "zero") == "zero" ? FinalSigma::zero
                                                                  : FinalSigma::sigma_min;
}

Schedule walked(Schedule schedule, FinalSigma final_sigma) {
  if (final_sigma == FinalSigma::zero) return schedule;
  FM_CHECK_USAGE(schedule.times.size() > 2, "final_sigma = sigma_min leaves out the last "
                 "of one step; ask for at least two (--steps)");
  schedule.times.pop_back();
  return schedule;
}

}  // namespace flowmap::samplers
