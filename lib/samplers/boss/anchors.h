// Grids of anchors that schedules are searched on, and the schedules people would use
// without a search.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "samplers/sampler.h"

namespace flowmap::samplers {

// Names of anchor_grid: "uniform", "edm", "logit".
const std::vector<std::string>& anchor_grid_names();

// `steps` + 1 anchors from noise to data in the model's own unit: times 0 ... 1, or, for
// denoisers, noise levels from the highest that the model knows to the lowest, then 0.
// uniform: equally spaced in time, t = 1/(1 + sigma/b). edm: the noise levels of Karras et
// al. 2022, eq. 5 (rho = 7), the first at time 0 where the unit is time. logit: quantiles of
// the logit-normal law, t = 1/(1 + exp(-z)), z standard normal (Esser et al. 2024,
// arXiv 2403.03206), dense in the middle. Throws UsageError on another name.
Schedule anchor_grid(const ModelInfo& info, const std::string& name, int64_t steps);

// Times of a grid in our clock: t itself, or 1/(1 + sigma/b) of noise levels.
std::vector<double> times_of(const ModelInfo& info, const Schedule& schedule);

// The best Euler grid for one Gaussian N(m, s^2) under the linear interpolant and unit
// noise: t_k = 1/(1 + s tan(pi/2 (1 - k/K))) (Sabour et al. 2024, arXiv 2404.14507, theorem
// 3.1). Each step then turns arctan((1-t)/(t s)) by the same angle. In the model's unit,
// with s in units of its base_std.
Schedule arctan_grid(const ModelInfo& info, int64_t steps, double data_std);

}  // namespace flowmap::samplers
