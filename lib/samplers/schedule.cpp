// Knots of the integration.
#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/sampler.h"

namespace flowmap::samplers {
namespace {

// EDM's range, for denoisers that state none.
constexpr double kEdmSigmaMin = 0.002, kEdmSigmaMax = 80;

double schedule_sigma_max(const ModelInfo& info) {
  // A one-step generator was trained at one noise level and knows no other.
  if (info.init_sigma > 0) return info.init_sigma;
  if (info.sigma_max > 0 && std::isfinite(info.sigma_max)) return info.sigma_max;
  return kEdmSigmaMax;
}

// Karras et al. 2022, eq. 5, with the final 0: N + 1 knots.
std::vector<double> rho_grid(double sigma_min, double sigma_max, double rho, int64_t n) {
  std::vector<double> knots;
  const double high = std::pow(sigma_max, 1 / rho), low = std::pow(sigma_min, 1 / rho);
  for (int64_t i = 0; i < n; ++i) {
    const double u = n > 1 ? static_cast<double>(i) / static_cast<double>(n - 1) : 0;
    knots.push_back(std::pow(high + u * (low - high), rho));
  }
  // Exact ends: pow(pow(s, 1/rho), rho) is off in the last bit.
  knots.front() = sigma_max;
  if (n > 1) knots.back() = sigma_min;
  knots.push_back(0);
  return knots;
}

double sigma_of_time(double t, double base_std) { return base_std * (1 - t) / t; }
double time_of_sigma(double sigma, double base_std) {
  return std::isinf(sigma) ? 0 : base_std / (base_std + sigma);
}

void check_knots(const Schedule& schedule, const ModelInfo& info) {
  const std::vector<double>& knots = schedule.times;
  const char* flag = schedule.source.c_str();
  const double direction = schedule.sigma ? -1 : 1;
  for (std::size_t i = 1; i < knots.size(); ++i)
    if (!(direction * (knots[i] - knots[i - 1]) > 0))
      throw UsageError(format("%s: knots must %s; knot %zu (%g) does not follow knot %zu "
                              "(%g)", flag,
                              schedule.sigma ? "fall in sigma" : "rise in time", i + 1,
                              knots[i], i, knots[i - 1]));
  if (schedule.sigma) {
    if (knots.back() != 0)
      throw UsageError(format("%s: the last knot must be sigma 0 (time 1), not %g; append "
                              "it", flag, knots.back()));
    if (info.sigma_max > 0 && knots.front() > info.sigma_max * (1 + 1e-9))
      throw UsageError(format("%s: sigma %g is above %g, the highest the model knows",
                              flag, knots.front(), info.sigma_max));
  } else {
    if (knots.front() < 0 || knots.back() != 1)
      throw UsageError(format("%s: times run from 0 (noise) to 1 (data), not from %g to "
                              "%g", flag, knots.front(), knots.back()));
  }
}

// The user's knots in the model's own unit.
Schedule user_schedule(const ModelInfo& info, const SampleOptions& options) {
  const bool in_sigma = !options.sigma_steps.empty();
  Schedule schedule;
  schedule.times = in_sigma ? options.sigma_steps : options.t_steps;
  schedule.sigma = info.kind == ModelKind::denoiser;
  schedule.source = in_sigma ? "--sigma_steps" : "--t_steps";
  const char* flag = schedule.source.c_str();
  if (schedule.times.size() < 2)
    throw UsageError(format("%s: at least two knots are needed, got %zu", flag,
                            schedule.times.size()));
  if (options.steps > 0 &&
      static_cast<std::size_t>(options.steps) + 1 != schedule.times.size())
    throw UsageError(format("%s: %zu knots make %zu steps, but --steps says %lld; leave "
                            "--steps out", flag, schedule.times.size(),
                            schedule.times.size() - 1,
                            static_cast<long long>(options.steps)));
  for (double& knot : schedule.times) {
    const bool inside = in_sigma ? knot >= 0 : knot >= 0 && knot <= 1;
    if (!inside)
      throw UsageError(format("%s: %g is outside %s", flag, knot,
                              in_sigma ? "[0, inf)" : "[0, 1]"));
    if (in_sigma && !schedule.sigma) knot = time_of_sigma(knot, info.base_std);
    // Time 0 is an infinite sigma: the highest that the model knows stands for it.
    if (!in_sigma && schedule.sigma)
      knot = knot == 0 ? schedule_sigma_max(info) : sigma_of_time(knot, info.base_std);
  }
  check_knots(schedule, info);
  return schedule;
}

}  // namespace

Schedule make_schedule(const ModelInfo& info, const SampleOptions& options) {
  // 0 stands for the model's own.
  for (const auto& [flag, sigma] : {std::pair{"--sigma_min", options.sigma_min},
                                    std::pair{"--sigma_max", options.sigma_max}})
    if (!(sigma >= 0) || std::isinf(sigma))
      throw UsageError(format("%s: a finite number above 0, not %g", flag, sigma));
  if (!options.t_steps.empty() && !options.sigma_steps.empty())
    throw UsageError("--t_steps and --sigma_steps say the same thing; give one of them");
  if (!options.t_steps.empty() || !options.sigma_steps.empty())
    return user_schedule(info, options);
  if (options.steps < 0)
    throw UsageError(format("--steps: at least 1, not %lld",
                            static_cast<long long>(options.steps)));
  Schedule schedule;
  if (info.kind == ModelKind::denoiser) {
    const int64_t steps =
        options.steps > 0 ? options.steps : (info.init_sigma > 0 ? 1 : 18);
    double low = options.sigma_min, high = options.sigma_max;
    if (low <= 0) low = info.sigma_min > 0 ? info.sigma_min : kEdmSigmaMin;
    if (high <= 0) high = schedule_sigma_max(info);
    if (!(options.rho > 0) || std::isinf(options.rho))
      throw UsageError(format("--rho: a finite number above 0, not %g", options.rho));
    if (steps > 1 && !(low < high))
      throw UsageError(format("--sigma_min: %g is not below --sigma_max %g", low, high));
    schedule.sigma = true;
    schedule.times = rho_grid(low, high, options.rho, steps);
    schedule.source = format("edm(rho=%g)", options.rho);
    check_knots(schedule, info);
    return schedule;
  }
  if (options.sigma_min > 0 || options.sigma_max > 0)
    throw UsageError(format("--sigma_min, --sigma_max: for denoisers; this model is a %s "
                            "and runs in time (--t_steps)",
                            std::string(model_kind_name(info.kind)).c_str()));
  const int64_t steps =
      options.steps > 0 ? options.steps : (info.kind == ModelKind::flow_map ? 1 : 32);
  for (int64_t i = 0; i <= steps; ++i)
    schedule.times.push_back(static_cast<double>(i) / static_cast<double>(steps));
  schedule.source = "uniform";
  return schedule;
}

Schedule at_known_levels(const Model& model, Schedule schedule) {
  if (!schedule.sigma) return schedule;
  std::vector<double> kept;
  for (const double knot : schedule.times) {
    const double level =
        knot > 0 ? model.round_sigma(at::scalar_tensor(knot, at::kDouble)).item<double>() : 0;
    if (kept.empty() || level < kept.back()) kept.push_back(level);
  }
  schedule.times = std::move(kept);
  return schedule;
}

}  // namespace flowmap::samplers
