#include "samplers/boss/anchors.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/noise_grid.h"

namespace flowmap::samplers {
namespace {

// Quantile of the standard normal: bisection on erfc, exact to rounding.
double normal_quantile(double p) {
  double low = -40, high = 40;
  for (int i = 0; i < 200; ++i) {
    const double middle = 0.5 * (low + high);
    (0.5 * std::erfc(-middle / std::numbers::sqrt2) < p ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

double level_of_time(double t, const ModelInfo& info) {
  return info.base_std * (1 - t) / t;
}

// What make_schedule takes for one step: the highest and the lowest level of the model.
std::pair<double, double> levels_known(const ModelInfo& info) {
  const Schedule two = make_schedule(info, {.steps = 2});
  return {two.times[0], two.times[1]};
}

// Times 0 ... 1 in the model's unit; what lies outside a denoiser's levels moves inside.
Schedule in_unit_of(const ModelInfo& info, std::vector<double> times, std::string source) {
  Schedule schedule;
  schedule.source = std::move(source);
  if (info.kind != ModelKind::denoiser) {
    schedule.times = std::move(times);
    return schedule;
  }
  schedule.sigma = true;
  const auto [highest, lowest] = levels_known(info);
  // The same fractions of the times between the two levels, then 0.
  const double begin = 1 / (1 + highest / info.base_std);
  for (std::size_t i = 0; i + 1 < times.size(); ++i) {
    const double t = begin + (1 - begin) * times[i];
    schedule.times.push_back(i == 0 ? highest : level_of_time(t, info));
  }
  schedule.times.push_back(0);
  return schedule;
}

}  // namespace

const std::vector<std::string>& anchor_grid_names() {
  static const std::vector<std::string> names{"uniform", "edm", "logit"};
  return names;
}

Schedule anchor_grid(const ModelInfo& info, const std::string& name, int64_t steps) {
  FM_CHECK_USAGE(steps >= 1, "anchors: at least 1 step, not ", steps);
  const auto fraction = [&](int64_t i) {
    return static_cast<double>(i) / static_cast<double>(steps);
  };
  std::vector<double> times;
  if (name == "uniform") {
    for (int64_t i = 0; i <= steps; ++i) times.push_back(fraction(i));
  } else if (name == "logit") {
    for (int64_t i = 0; i <= steps; ++i)
      times.push_back(i == 0       ? 0
                      : i == steps ? 1
                                   : 1 / (1 + std::exp(-normal_quantile(fraction(i)))));
  } else if (name == "edm") {
    if (info.kind == ModelKind::denoiser) return make_schedule(info, {.steps = steps});
    const auto [low, high] = default_noise_range("edm", 1e-3);
    NoiseGrid grid;
    grid.sigma_min = low;
    grid.sigma_max = high;
    for (const double sigma : noise_levels_of(grid, steps))
      times.push_back(1 / (1 + sigma / info.base_std));
    times.front() = 0;
  } else {
    throw UsageError("no anchor grid is called '" + name + "'" +
                     suggestion(name, anchor_grid_names()));
  }
  return in_unit_of(info, std::move(times), name);
}

std::vector<double> times_of(const ModelInfo& info, const Schedule& schedule) {
  std::vector<double> times = schedule.times;
  if (schedule.sigma)
    for (double& t : times) t = 1 / (1 + t / info.base_std);
  return times;
}

Schedule arctan_grid(const ModelInfo& info, int64_t steps, double data_std) {
  FM_CHECK_USAGE(steps >= 1 && data_std > 0, "arctan grid: steps and deviation above 0");
  const double s = data_std / info.base_std;
  std::vector<double> times{0};
  for (int64_t k = 1; k < steps; ++k)
    times.push_back(1 / (1 + s * std::tan(std::numbers::pi / 2 *
                                          (1 - static_cast<double>(k) /
                                                   static_cast<double>(steps)))));
  times.push_back(1);
  return in_unit_of(info, std::move(times), "arctan");
}

}  // namespace flowmap::samplers
