// Flags that say how a model is sampled: knots, solver and its options, guidance.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "apps/run_options.h"
#include "samplers/sampler.h"

namespace CLI {
class App;
}

namespace flowmap::apps {

struct ScheduleFlags {
  std::string t_steps, sigma_steps;
  std::string schedule_file, schedule_method;  // of `flowmap boss search`
  int64_t nfe = 0;
  bool force = false;
  samplers::SampleOptions grid;
};
// --steps, --t_steps, --sigma_steps, --sigma_min, --sigma_max, --rho, --disc, --epsilon_s,
// --C_1, --C_2, --M, --schedule-file, --schedule-method, --nfe, --force.
void add_schedule_flags(CLI::App& app, ScheduleFlags& flags);
// The schedule on the levels that the model knows; `default_times`, or else `default_steps`,
// where neither steps nor knots are given. Throws UsageError naming the flag.
samplers::Schedule read_schedule(const CLI::App& app, const ScheduleFlags& flags,
                                 const Model& model, int64_t default_steps,
                                 const std::vector<double>& default_times = {});
// The same with the knots or steps that the snapshot's method names.
samplers::Schedule read_schedule(const CLI::App& app, const ScheduleFlags& flags,
                                 const Snapshot& snapshot);

struct SolverFlags {
  std::string solver;
  std::vector<std::string> options;  // of --solver-options
  std::vector<std::string> values;   // of the flags that are options, in their order
};
// --solver, --solver-options, and the options that have flags of their own: --churn,
// --S_churn, --S_min, --S_max, --S_noise, --schedule, --scaling, --alpha, --order, --eta,
// --rtol, --atol.
void add_solver_flags(CLI::App& app, SolverFlags& flags);
// The options given, by the solvers' own names for them.
Config solver_options(const CLI::App& app, const SolverFlags& flags);
// The sampler called `name` with the options given. Throws UsageError on one that it does
// not have.
std::shared_ptr<samplers::Sampler> read_solver(const CLI::App& app, const SolverFlags& flags,
                                               const std::string& name);

struct GuidanceFlags {
  double scale = 1;
  std::string guide;
};
// --guidance, --gnet.
void add_guidance_flags(CLI::App& app, GuidanceFlags& flags);
struct Guided {
  std::shared_ptr<Model> model;
  double input_scale = 1;  // for models that take the scale as an input
};
// The model, guided as asked for: by the network of --gnet, else by the scale as an input
// where it is one, else by the model itself without classes. Throws UsageError.
Guided read_guidance(const CLI::App& app, const GuidanceFlags& flags,
                     const std::shared_ptr<Model>& model, at::Device device,
                     const Precision& precision, double input_scale = 1);
// The same; without --guidance a model that takes the scale gets the snapshot's own
// ("default_guidance" of its method).
Guided read_guidance(const CLI::App& app, const GuidanceFlags& flags,
                     const Snapshot& snapshot, at::Device device,
                     const Precision& precision);

}  // namespace flowmap::apps
