// flowmap boss search
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "apps/boss_options.h"
#include "apps/build_facts.h"
#include "apps/cli.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/model_checksum.h"
#include "samplers/boss/anchors.h"
#include "samplers/boss/cost_file.h"

namespace fs = std::filesystem;

namespace flowmap::apps {
namespace {

using samplers::CostFile;
using samplers::StepSolver;
using samplers::TeacherOptions;

struct BossSearchOptions {
  BossNetworkFlags network;
  std::string nfe = "1-10", dest, grid, teacher = "euler", weight = "none";
  std::string step_solver = "euler", seeds, costs, plot;
  std::vector<std::string> merge;
  int64_t anchors = 100, num = 100, norm = 0, probes = 1, substeps = 1, check = 32;
  bool resume = false, overwrite = false;
};

// Seeds of the noises that schedules are checked with, far from those anyone samples.
constexpr std::int64_t kCheckSeeds = 1'000'000'000'000;

void declare_boss_search(CLI::App& app, BossSearchOptions& o) {
  add_boss_network_flags(app, o.network);
  app.add_option("--nfe", o.nfe, "budgets of network evaluations: 1-10 or 2,4,6")
      ->capture_default_str();
  app.add_option("--dest", o.dest, "the file of schedules (JSON) to write")
      ->required()
      ->check(not_empty());
  app.add_option("--anchors", o.anchors, "steps of the teacher; knots are among its times")
      ->check(whole_number(1, 2000))
      ->capture_default_str();
  app.add_option("--grid", o.grid,
                 "anchors: uniform (in time), edm (noise levels), logit (default: edm for "
                 "denoisers, else uniform)");
  app.add_option("--num", o.num, "noises, seeds 0, 1, ...")
      ->check(whole_number(1, int64_t{1} << 26))
      ->capture_default_str();
  app.add_option("--seeds", o.seeds, "seeds of the noises instead of --num: 1,2,5-10");
  app.add_option("--teacher-solver", o.teacher, "euler, heun, rk45")->capture_default_str();
  app.add_option("--substeps", o.substeps,
                 "euler, heun: steps of the teacher between two anchors")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  app.add_option("--step-solver", o.step_solver,
                 "the solver that will walk the schedule: euler, heun")
      ->capture_default_str();
  app.add_option("--weight", o.weight,
                 "none: plain costs; sensitivity: beside them local errors as the end sees "
                 "them, for four times the evaluations: the smallest error of each sample, "
                 "which is not always the best distribution of samples")
      ->capture_default_str();
  app.add_option("--probes", o.probes, "random directions a noise for the sensitivity")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  app.add_option("--norm", o.norm,
                 "what is added up along a path: 1 errors, 2 their squares (default: both "
                 "are searched)")
      ->check(whole_number(1, 2));
  app.add_option("--check", o.check, "other noises that the schedules are compared with")
      ->check(whole_number(1, 100000))
      ->capture_default_str();
  app.add_option("--costs", o.costs,
                 "where costs are kept, after every batch (default: DEST.costs.safetensors)");
  app.add_flag("--resume", o.resume, "go on from the costs that are there");
  app.add_option("--merge", o.merge,
                 "add up costs of several searches (other seeds) instead of sampling");
  app.add_option("--plot", o.plot, "PNG: costs, paths and steps")->check(not_empty());
  app.add_flag("--overwrite", o.overwrite, "replace files that are there");
}

std::map<std::string, std::string> settings_of(const BossSearchOptions& o,
                                               const BossNetwork& network,
                                               const std::string& grid) {
  return {{"network", model_checksum(*network.bare)},
          {"grid", grid},
          {"anchors", std::to_string(o.anchors)},
          {"teacher", o.teacher},
          {"substeps", std::to_string(o.substeps)},
          {"step solver", o.step_solver},
          {"weight", o.weight},
          {"probes", o.weight == "none" ? "0" : std::to_string(o.probes)},
          {"class", o.network.classes},
          {"guidance", format("%g %s", o.network.guidance.scale,
                              o.network.guidance.guide.c_str())}};
}

// "0-99" of 0, 1, ..., 99; several runs divided by commas.
std::string seeds_text(const std::vector<std::int64_t>& seeds) {
  std::vector<std::string> runs;
  for (std::size_t i = 0; i < seeds.size();) {
    std::size_t end = i + 1;
    while (end < seeds.size() && seeds[end] == seeds[end - 1] + 1) ++end;
    const std::string first = std::to_string(seeds[i]);
    runs.push_back(end == i + 1 ? first : first + "-" + std::to_string(seeds[end - 1]));
    i = end;
  }
  return join(runs, ",");
}

// Samples what is missing of `seeds`, keeping the costs after every batch. Returns the
// network evaluations spent.
int64_t record_costs(const BossSearchOptions& o, const BossNetwork& network,
                     const samplers::Schedule& anchors,
                     const std::vector<std::int64_t>& seeds, CostFile& costs,
                     const std::string& costs_path) {
  const std::set<std::int64_t> done(costs.seeds.begin(), costs.seeds.end());
  std::vector<std::int64_t> missing;
  for (const std::int64_t seed : seeds)
    if (!done.contains(seed)) missing.push_back(seed);
  if (!done.empty())
    log_line(format("%zu of %zu noises are there already", seeds.size() - missing.size(),
                    seeds.size()));
  TeacherOptions teacher;
  teacher.solver = samplers::parse_teacher_solver(o.teacher, "--teacher-solver");
  teacher.substeps = o.substeps;
  samplers::StepCostOptions step;
  step.solver = samplers::parse_step_solver(o.step_solver, "--step-solver");
  step.probes = o.weight == "none" ? 0 : o.probes;
  const bool slopes = teacher.solver != TeacherOptions::Solver::euler || o.substeps > 1;
  int64_t elements = 1, evaluations = 0;
  for (const int64_t size : network.info.sample_shape) elements *= size;
  const int64_t a_sample = samplers::teacher_evaluations(anchors, teacher) +
                           samplers::step_cost_evaluations(anchors, step, elements);
  install_interrupt_handler();
  LiveLine live;
  const auto start = std::chrono::steady_clock::now();
  std::size_t finished = 0;
  for (const auto& batch_seeds :
       seed_batches(missing, o.network.batch, o.anchors, network.info, slopes)) {
    const samplers::SearchBatch batch = boss_batch(network, o.network, batch_seeds);
    try {
      const samplers::TeacherPath path = samplers::teacher_path(
          *network.guided.model, batch.latents, batch.condition, anchors, teacher);
      samplers::record_step_costs(costs.sums, *network.guided.model, batch.condition,
                                  anchors, path, network.info.sample_shape, step,
                                  batch.draw);
    } catch (const UsageError&) {
      throw;
    } catch (const Error& error) {
      throw Error(format("%s: seeds %llu...: %s", o.network.network.network.c_str(),
                         static_cast<unsigned long long>(batch_seeds.front()),
                         error.what()));
    }
    costs.seeds.insert(costs.seeds.end(), batch_seeds.begin(), batch_seeds.end());
    samplers::write_cost_file(costs_path, costs);
    finished += batch_seeds.size();
    evaluations += a_sample * static_cast<int64_t>(batch_seeds.size());
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const double left = took.count() / static_cast<double>(finished) *
                        static_cast<double>(missing.size() - finished);
    live.update(format("%zu/%zu noises  ETA %s", finished, missing.size(),
                       format_duration(left).c_str()));
    if (interrupted() && finished < missing.size()) {
      live.clear();
      throw Interrupted(format("interrupted after %zu of %zu noises; --resume goes on "
                               "from %s", finished, missing.size(), costs_path.c_str()));
    }
  }
  return evaluations;
}

void log_budgets(const std::vector<samplers::ScheduleBudget>& budgets) {
  log_line("nfe  chosen         end error (RMSE) of each");
  for (const auto& budget : budgets) {
    std::string line = format("%3lld  %-14s", static_cast<long long>(budget.nfe),
                              budget.method.c_str());
    for (const auto& candidate : budget.candidates)
      line += format(" %s %.5f ", candidate.method.c_str(), candidate.rmse);
    log_line(line);
  }
}

}  // namespace

int run_boss_search(std::span<const std::string> arguments) {
  CLI::App app("Search the best steps of a network for every budget.",
               "flowmap boss search");
  BossSearchOptions o;
  declare_boss_search(app, o);
  app.footer("\nExample: flowmap boss search --network teacher.safetensors --nfe 1-10 "
             "--dest steps.json --plot steps.png\nThen: flowmap generate --network "
             "teacher.safetensors --solver euler --schedule-file steps.json --nfe 4");
  if (!parse_arguments(app, arguments)) return 0;
  require_ending(o.dest, ".json", "--dest");
  if (!o.plot.empty()) require_ending(o.plot, ".png", "--plot");
  FM_CHECK_USAGE(o.weight == "none" || o.weight == "sensitivity", "--weight: none or ",
                 "sensitivity, not '", o.weight, "'");
  if (!o.seeds.empty() && app.count("--num"))
    throw UsageError("--num and --seeds exclude each other");
  if (!o.merge.empty() && (o.resume || !o.seeds.empty() || app.count("--num")))
    throw UsageError("--merge samples nothing; leave --num, --seeds and --resume out");
  const StepSolver solver = samplers::parse_step_solver(o.step_solver, "--step-solver");
  samplers::parse_teacher_solver(o.teacher, "--teacher-solver");
  prepare_output(o.dest, o.overwrite, "--dest");
  const std::string costs_path = o.costs.empty() ? o.dest + ".costs.safetensors" : o.costs;
  const bool costs_there = fs::exists(costs_path);
  if (!o.resume && o.merge.empty()) prepare_output(costs_path, o.overwrite, "--costs");

  const BossNetwork network = load_boss_network(app, o.network);
  const PrecisionGuard precision(network.device.type(), network.precision);
  const ModelInfo& info = network.info;
  const std::string grid =
      !o.grid.empty() ? o.grid : info.kind == ModelKind::denoiser ? "edm" : "uniform";
  samplers::Schedule anchors;
  under_flag("--grid", [&] {
    anchors = samplers::at_known_levels(*network.bare,
                                        samplers::anchor_grid(info, grid, o.anchors));
  });
  o.anchors = static_cast<int64_t>(anchors.times.size()) - 1;
  std::vector<int64_t> budgets = parse_int_list(o.nfe, "--nfe");
  std::sort(budgets.begin(), budgets.end());
  budgets.erase(std::unique(budgets.begin(), budgets.end()), budgets.end());
  for (const int64_t nfe : budgets)
    samplers::steps_of_budget(info, solver, nfe, o.anchors);

  CostFile costs;
  costs.settings = settings_of(o, network, grid);
  std::vector<double> scale;
  if (anchors.sigma) scale = samplers::times_of(info, anchors);
  costs.sums = samplers::CostSums(anchors.times, scale);
  int64_t evaluations = 0;
  if (!o.merge.empty()) {
    for (const std::string& path : o.merge) {
      require_file(path, "--merge");
      costs.merge(samplers::read_cost_file(path), o.dest, path);
    }
  } else {
    if (o.resume && costs_there) {
      CostFile before = samplers::read_cost_file(costs_path);
      samplers::require_same_settings(costs.settings, before, costs_path);
      costs = std::move(before);
    }
    const std::vector<std::int64_t> seeds = parse_int_list(
        o.seeds.empty() ? format("0-%lld", static_cast<long long>(o.num - 1)) : o.seeds,
        "--seeds");
    evaluations = record_costs(o, network, anchors, seeds, costs, costs_path);
  }

  std::vector<std::int64_t> check_seeds;
  for (int64_t i = 0; i < o.check; ++i) check_seeds.push_back(kCheckSeeds + i);
  std::vector<samplers::SearchBatch> check;
  for (const auto& seeds : seed_batches(check_seeds, o.network.batch, o.anchors, info, true))
    check.push_back(boss_batch(network, o.network, seeds));
  const samplers::EndError error(*network.guided.model, check, anchors,
                                 {.solver = TeacherOptions::Solver::heun});
  samplers::ScheduleFile file;
  const int norm = static_cast<int>(o.norm);
  file.budgets = samplers::choose_schedules(info, costs.sums, anchors, budgets, solver,
                                            norm, error);
  file.network = costs.settings.at("network");
  file.network_file = fs::path(o.network.network.network).filename().string();
  file.tool = std::string("flowmap ") + kVersion;
  file.sigma = anchors.sigma;
  file.sample_shape = info.sample_shape;
  file.grid = grid;
  file.anchors = anchors.times;
  file.teacher = o.teacher;
  file.substeps = o.substeps;
  file.step_solver = o.step_solver;
  file.weight = o.weight;
  file.norm = norm;
  file.probes = o.weight == "none" ? 0 : o.probes;
  file.seeds = seeds_text(costs.seeds);
  file.num = costs.sums.samples();
  file.guidance = o.network.guidance.scale;
  file.evaluations = evaluations + error.evaluations();
  samplers::write_schedule_file(o.dest, file);
  log_budgets(file.budgets);
  if (!o.plot.empty()) {
    prepare_output(o.plot, o.overwrite, "--plot");
    std::vector<std::vector<double>> budget_times;
    for (const auto& budget : file.budgets) {
      samplers::Schedule one;
      one.times = budget.knots;
      one.sigma = file.sigma;
      budget_times.push_back(samplers::times_of(info, one));
    }
    const at::Tensor shown =
        costs.sums.has_carried() ? costs.sums.carried(1) : costs.sums.plain(2);
    write_png(o.plot, boss_picture(shown, samplers::times_of(info, anchors), file.budgets,
                                   budget_times));
    log_line("wrote " + o.plot);
  }
  log_line(format("wrote %s: %zu budgets from %lld noises, %lld network evaluations",
                  o.dest.c_str(), file.budgets.size(), static_cast<long long>(file.num),
                  static_cast<long long>(file.evaluations)));
  return 0;
}

}  // namespace flowmap::apps
