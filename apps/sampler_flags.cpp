#include "apps/sampler_flags.h"

#include <CLI/CLI.hpp>

#include "apps/cli.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/boss/schedule_file.h"
#include "samplers/guided.h"

namespace flowmap::apps {
namespace {

// A flag that is an option of samplers under the same name.
struct SolverFlag {
  const char* names;
  const char* key;
  const char* help;
};
constexpr SolverFlag kSolverFlags[] = {
    {"--churn", "churn",
     "noise added anew. euler, heun: as --S_churn. flow_map, consistency: gamma from 0 "
     "(none) to 1 (jump to the data, then all noise again), or a list, one a step"},
    {"--S_churn,--S-churn", "S_churn", "euler, heun: EDM's churn"},
    {"--S_min,--S-min", "S_min", "lowest noise level with churn"},
    {"--S_max,--S-max", "S_max", "highest noise level with churn"},
    {"--S_noise,--S-noise", "S_noise", "deviation of the noise added (default: 1)"},
    {"--schedule", "schedule",
     "euler, heun of denoisers: noise level as a function of the time that is stepped in: "
     "linear (default), ve, vp"},
    {"--scaling", "scaling", "the same: scale of the state: none (default), vp"},
    {"--alpha", "alpha",
     "heun: where the second slope is taken: 1 (default), 0.5 the midpoint"},
    {"--order", "order", "dpmpp, unipc: 1, 2 or 3"},
    {"--eta", "eta", "ddim, dpmpp: 0 the ODE, 1 the SDE"},
    {"--rtol", "rtol", "rk45: relative tolerance"},
    {"--atol", "atol", "rk45: absolute tolerance"},
};

std::string solver_help() {
  std::vector<std::string> names;
  for (const auto& entry : samplers::sampler_registry()) names.emplace_back(entry.name);
  return join(names, ", ") + " (default: the snapshot's)";
}

// "a=1,b=2"; what has no '=' continues the value before it, as in churn=1,0.5.
std::vector<std::string> option_assignments(const std::string& text) {
  std::vector<std::string> assignments;
  for (const std::string& part : split(text, ',')) {
    if (part.find('=') != std::string::npos)
      assignments.push_back(std::string(trim(part)));
    else if (!assignments.empty())
      assignments.back() += "," + part;
    else
      throw UsageError("--solver-options: KEY=VALUE,... is expected, not '" + text + "'");
  }
  return assignments;
}

}  // namespace

void add_schedule_flags(CLI::App& app, ScheduleFlags& flags) {
  samplers::SampleOptions& grid = flags.grid;
  app.add_option("--steps", grid.steps, "steps of the solver (default: the snapshot's)")
      ->check(whole_number(1, int64_t{1} << 20));
  app.add_option("--t_steps,--t-steps", flags.t_steps,
                 "times to step through, from 0 (noise) to 1 (data): 0,0.5,1");
  app.add_option("--sigma_steps,--sigma-steps", flags.sigma_steps,
                 "the same as noise levels, falling to 0: 80,2.5,0");
  app.add_option("--sigma_min,--sigma-min", grid.sigma_min,
                 "lowest noise level (denoisers; default: the model's)")
      ->check(positive_number());
  app.add_option("--sigma_max,--sigma-max", grid.sigma_max,
                 "highest noise level (denoisers; default: the model's)")
      ->check(positive_number());
  app.add_option("--rho", grid.rho, "exponent of the noise levels (denoisers)")
      ->check(positive_number())
      ->capture_default_str();
  app.add_option("--disc,--discretization", grid.discretization,
                 "grid of noise levels (denoisers): edm, vp, ve, iddpm")
      ->capture_default_str();
  app.add_option("--epsilon_s,--epsilon-s", grid.epsilon_s, "lowest time of the vp grid")
      ->check(positive_number())
      ->capture_default_str();
  app.add_option("--C_1,--C-1", grid.c_1, "iddpm grid: least ratio of alphas")
      ->check(positive_number())
      ->capture_default_str();
  app.add_option("--C_2,--C-2", grid.c_2, "iddpm grid: offset of the cosine")
      ->check(positive_number())
      ->capture_default_str();
  app.add_option("--M", grid.m, "iddpm grid: how many levels")
      ->check(whole_number(1, int64_t{1} << 20))
      ->capture_default_str();
  app.add_option("--schedule-file,--schedule_file", flags.schedule_file,
                 "steps that 'flowmap boss search' found for this network")
      ->check(not_empty());
  app.add_option("--nfe", flags.nfe,
                 "which schedule of --schedule-file: network evaluations an image (default: "
                 "the largest)")
      ->check(whole_number(1, int64_t{1} << 20));
  app.add_option("--schedule-method", flags.schedule_method,
                 "a candidate of --schedule-file instead of the one it chose: uniform, boss, "
                 "sensitivity, ...")
      ->check(not_empty());
  // One that a verb has already means both.
  if (!app.get_option_no_throw("--force"))
    app.add_flag("--force", flags.force,
                   "take a --schedule-file that was made for another network");
}

namespace {

// The schedule of a file instead of a grid; what would say the same again is refused.
samplers::Schedule schedule_of_file(const CLI::App& app, const ScheduleFlags& flags,
                                    const Model& model) {
  for (const char* flag : {"--steps", "--t_steps", "--sigma_steps", "--sigma_min",
                           "--sigma_max", "--rho", "--disc"})
    FM_CHECK_USAGE(app.count(flag) == 0, flag, " and --schedule-file exclude each other; ",
                   "--nfe chooses among the file's schedules");
  require_file(flags.schedule_file, "--schedule-file");
  samplers::Schedule schedule;
  under_flag("--schedule-file", [&] {
    const auto file = samplers::read_schedule_file(flags.schedule_file);
    schedule = samplers::schedule_from_file(
        file, flags.schedule_file, model,
        flags.nfe > 0 ? flags.nfe : file.budgets.back().nfe, flags.force,
        flags.schedule_method);
  });
  return schedule;
}

}  // namespace

samplers::Schedule read_schedule(const CLI::App& app, const ScheduleFlags& flags,
                                 const Model& model, int64_t default_steps,
                                 const std::vector<double>& default_times) {
  if (app.count("--schedule-file"))
    return samplers::at_known_levels(model, schedule_of_file(app, flags, model));
  const char* flag = flags.force ? "--force" : "--nfe";
  const CLI::Option* adapter = app.get_option_no_throw("--adapter");
  const bool forced = flags.force && !(adapter && adapter->count() > 0);
  FM_CHECK_USAGE(!forced && app.count("--nfe") == 0, flag, ": for --schedule-file; "
                 "give one, or say --steps");
  samplers::SampleOptions grid = flags.grid;
  if (app.count("--t_steps")) grid.t_steps = parse_double_list(flags.t_steps, "--t_steps");
  if (app.count("--sigma_steps"))
    grid.sigma_steps = parse_double_list(flags.sigma_steps, "--sigma_steps");
  if (grid.steps == 0 && grid.t_steps.empty() && grid.sigma_steps.empty()) {
    grid.t_steps = default_times;
    if (grid.t_steps.empty()) grid.steps = default_steps;
  }
  samplers::Schedule schedule =
      samplers::at_known_levels(model, samplers::make_schedule(model.info(), grid));
  if (!default_times.empty() && grid.t_steps == default_times && !app.count("--t_steps"))
    schedule.source = "the network's own knots";
  return schedule;
}

samplers::Schedule read_schedule(const CLI::App& app, const ScheduleFlags& flags,
                                 const Snapshot& snapshot) {
  return read_schedule(app, flags, *snapshot.model, snapshot.defaults.steps,
                       snapshot.defaults.times);
}

void add_solver_flags(CLI::App& app, SolverFlags& flags) {
  app.add_option("--solver", flags.solver, solver_help())->check(not_empty());
  app.add_option("--solver-options,--solver_options", flags.options,
                 "any option of the solver: order=3,eta=0.4 (may be repeated)");
  flags.values.resize(std::size(kSolverFlags));
  for (std::size_t i = 0; i < std::size(kSolverFlags); ++i)
    app.add_option(kSolverFlags[i].names, flags.values[i], kSolverFlags[i].help);
}

Config solver_options(const CLI::App& app, const SolverFlags& flags) {
  Config options;
  for (const std::string& text : flags.options)
    for (const std::string& assignment : option_assignments(text))
      under_flag("--solver-options",
                 [&] { options.set_override(assignment, "--solver-options"); });
  for (std::size_t i = 0; i < std::size(kSolverFlags); ++i) {
    const std::string key = kSolverFlags[i].key, flag = "--" + key;
    if (app.count(flag) == 0) continue;
    const std::string& value = flags.values[i];
    FM_CHECK_USAGE(!value.empty(), flag, ": a value is expected, not an empty text");
    // What every solver does needs no option.
    if ((key == "schedule" && value == "linear") || (key == "scaling" && value == "none"))
      continue;
    options.set_override(key + "=" + value, flag);
  }
  return options;
}

std::shared_ptr<samplers::Sampler> read_solver(const CLI::App& app, const SolverFlags& flags,
                                               const std::string& name) {
  return samplers::make_sampler(name, solver_options(app, flags));
}

void add_guidance_flags(CLI::App& app, GuidanceFlags& flags) {
  app.add_option("--guidance", flags.scale,
                 "scale of guidance, 1 for none: towards the class, or away from --gnet");
  app.add_option("--gnet", flags.guide,
                 "weights of a weaker network to be guided away from (default: the network "
                 "itself without classes)")
      ->check(not_empty());
}

Guided read_guidance(const CLI::App& app, const GuidanceFlags& flags,
                     const std::shared_ptr<Model>& model, at::Device device,
                     const Precision& precision, double input_scale) {
  const bool has_guide = app.count("--gnet") > 0;
  FM_CHECK_USAGE(!has_guide || app.count("--guidance"),
                 "--gnet: say how strongly by --guidance");
  if (app.count("--guidance") == 0) return {model, input_scale};
  if (has_guide) {
    NetworkFlags guide;
    guide.network = flags.guide;
    require_network(guide, "--gnet");
    return {std::make_shared<samplers::GuidedModel>(
                model, load_model(guide, device, precision).model, flags.scale),
            1};
  }
  if (model->info().guidance_input) return {model, flags.scale};
  return {std::make_shared<samplers::GuidedModel>(model, flags.scale), 1};
}

Guided read_guidance(const CLI::App& app, const GuidanceFlags& flags,
                     const Snapshot& snapshot, at::Device device,
                     const Precision& precision) {
  const bool takes_scale = snapshot.model->info().guidance_input;
  return read_guidance(app, flags, snapshot.model, device, precision,
                       takes_scale ? snapshot.defaults.guidance : 1);
}

}  // namespace flowmap::apps
