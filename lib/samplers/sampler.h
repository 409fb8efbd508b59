// Samplers: latents to samples. Stateless; they know no seeds, files or batches.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/draw.h"
#include "flowmap/model.h"

namespace flowmap::samplers {

// Knots of the integration, from noise to data, and where they came from.
// Velocity models and flow maps: `times` rise in our clock (0 noise, 1 data).
// Denoisers: `times` fall in sigma and end with 0.
struct Schedule {
  std::vector<double> times;
  bool sigma = false;  // times are sigmas
  std::string source;  // "uniform", "edm(rho=7)", "--t_steps", a file
  // Denoisers: the range that the grid was made for, and its lowest VP time; they set the
  // VP schedule of EDM's ablations. 0: the first and the last knot above 0.
  double sigma_min = 0, sigma_max = 0, epsilon_s = 1e-3;
};

struct SampleOptions {
  int64_t steps = 0;   // 0: the snapshot's default
  double sigma_min = 0, sigma_max = 0, rho = 7;  // 0: the model's range
  std::vector<double> t_steps;      // times in our clock, given by the user
  std::vector<double> sigma_steps;  // sigmas, given by the user
  // Denoisers: the grid, by the names of EDM's ablations (noise_grid.h), and its options.
  std::string discretization = "edm";
  double epsilon_s = 1e-3, c_1 = 1e-3, c_2 = 8e-3;
  int64_t m = 1000;
};

// The schedule a sampler should follow for a model: the user's knots, or N uniform times
// (velocity, flow map), or a grid of noise levels (denoisers; by default EDM's, Karras et al.
// 2022, eq. 5), clipped to the model's range, with a final 0. Knots given in the other unit
// are converted by the model's base_std and interpolant.
// Throws UsageError: fewer than two knots, not monotone, outside the range.
Schedule make_schedule(const ModelInfo& info, const SampleOptions& options);

// The schedule on the noise levels that the model knows (Model::round_sigma), as EDM's
// sampler does before it appends the final 0; levels that fall together become one knot.
// Unchanged where the model knows all levels.
Schedule at_known_levels(const Model& model, Schedule schedule);

class Sampler {
 public:
  virtual ~Sampler() = default;
  // latents: unit normals [B, sample...]. Returns samples [B, sample...] as the network
  // sees data (images about [-1, 1]). No gradients.
  virtual at::Tensor sample(Model& model, const at::Tensor& latents,
                            const Condition& condition, const Schedule& schedule,
                            const Draw& draw) const = 0;
  // Network evaluations per image.
  virtual int64_t evaluations(const ModelInfo& info, const Schedule& schedule) const = 0;
};

struct SamplerEntry {
  const char* name;  // "euler", "heun", "flow_map", ...
  const char* summary;
  const char* paper;
  std::shared_ptr<Sampler> (*make)(const Config& options);
};
const std::vector<SamplerEntry>& sampler_registry();
// Throws UsageError with the nearest name, and on an option that the sampler does not have.
std::shared_ptr<Sampler> make_sampler(const std::string& name, const Config& options);

}  // namespace flowmap::samplers
