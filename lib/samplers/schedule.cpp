// Knots of the integration.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/noise_grid.h"
#include "samplers/sampler.h"

namespace flowmap::samplers {
namespace {

// [lowest, highest] noise level of a model's runs: the grid's range, clipped to what the
// model knows, as EDM's samplers do.
std::pair<double, double> noise_range(const ModelInfo& info, const SampleOptions& options) {
  // A one-step generator was trained at one noise level and knows no other.
  auto [low, high] = default_noise_range(options.discretization, options.epsilon_s);
  if (info.sigma_min > 0) low = std::max(low, info.sigma_min);
  if (info.sigma_max > 0) high = std::min(high, info.sigma_max);
  if (info.init_sigma > 0) high = info.init_sigma;
  return {low, high};
}

double sigma_of_time(double t, const ModelInfo& info) {
  if (t == 1) return 0;
  return sigma_from_t(Dual(at::scalar_tensor(t, at::kDouble)), info.base_std,
                      info.interpolant)
      .value.item<double>();
}
double time_of_sigma(double sigma, const ModelInfo& info) {
  if (std::isinf(sigma)) return 0;
  return sigma == 0 ? 1
                    : t_from_sigma(Dual(at::scalar_tensor(sigma, at::kDouble)),
                                   info.base_std, info.interpolant)
                          .value.item<double>();
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
    if (in_sigma && !schedule.sigma) knot = time_of_sigma(knot, info);
    // Time 0 is an infinite sigma: the highest that the model knows stands for it.
    if (!in_sigma && schedule.sigma)
      knot = knot == 0 ? noise_range(info, options).second : sigma_of_time(knot, info);
  }
  check_knots(schedule, info);
  return schedule;
}

}  // namespace

Schedule make_schedule(const ModelInfo& info, const SampleOptions& options) {
  check_discretization(options.discretization);
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
    const auto [low, high] = noise_range(info, options);
    NoiseGrid grid;
    grid.discretization = options.discretization;
    grid.sigma_min = options.sigma_min > 0 ? options.sigma_min : low;
    grid.sigma_max = options.sigma_max > 0 ? options.sigma_max : high;
    grid.rho = options.rho;
    grid.epsilon_s = options.epsilon_s;
    grid.c_1 = options.c_1;
    grid.c_2 = options.c_2;
    grid.m = options.m;
    schedule.sigma = true;
    schedule.times = noise_levels_of(grid, steps);
    schedule.source = grid.discretization == "edm" ? format("edm(rho=%g)", options.rho)
                                                   : grid.discretization;
    schedule.sigma_min = grid.sigma_min;
    schedule.sigma_max = grid.sigma_max;
    schedule.epsilon_s = grid.epsilon_s;
    check_knots(schedule, info);
    return schedule;
  }
  if (options.discretization != "edm")
    throw UsageError(format("--disc: for denoisers; this model is a %s and runs in time "
                            "(--t_steps)",
                            std::string(model_kind_name(info.kind)).c_str()));
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
