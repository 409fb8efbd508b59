// flowmap boss report
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/boss_options.h"
#include "apps/cli.h"
#include "apps/picture.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "samplers/boss/anchors.h"
#include "samplers/boss/bellman.h"
#include "samplers/boss/straightness.h"
#include "samplers/boss/student_states.h"

namespace flowmap::apps {
namespace {

using samplers::StepSolver;
using samplers::TeacherOptions;

struct BossReportOptions {
  BossNetworkFlags network;
  std::string schedule, nfe, reference = "heun", json, samples;
  int64_t num = 32, reference_steps = 1000;
  bool force = false, overwrite = false;
};

void declare_boss_report(CLI::App& app, BossReportOptions& o) {
  add_boss_network_flags(app, o.network);
  app.add_option("--schedule", o.schedule, "schedules of 'flowmap boss search'")
      ->required()
      ->check(not_empty());
  app.add_option("--nfe", o.nfe, "budgets to compare (default: all of the file)");
  app.add_option("--num", o.num, "noises; not those of the search")
      ->check(whole_number(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--reference", o.reference,
                 "what errors are measured against: euler, heun, or rk45 (tolerance 1e-6)")
      ->capture_default_str();
  app.add_option("--reference-steps", o.reference_steps, "steps of euler and heun")
      ->check(whole_number(1, 100000))
      ->capture_default_str();
  app.add_option("--json", o.json, "the same as JSON")->check(not_empty());
  app.add_option("--samples", o.samples, "PNG: samples under each schedule")
      ->check(not_empty());
  app.add_flag("--force", o.force, "a schedule made for another network");
  app.add_flag("--overwrite", o.overwrite, "replace files that are there");
}

constexpr std::int64_t kReportSeeds = 2'000'000'000'000;

struct ReportRow {
  std::int64_t nfe = 0;
  std::string method;
  std::vector<double> knots;
  double rmse = 0;
};

// Schedules without a search of ours, and other searches', on the file's anchors.
class Comparisons {
 public:
  Comparisons(const BossNetwork& network, const samplers::Schedule& anchors,
              const samplers::SearchBatch& batch, StepSolver solver, int64_t most,
              double data_std)
      : info_(network.info), anchors_(anchors), data_std_(data_std) {
    if (solver != StepSolver::euler) return;
    const samplers::TeacherPath path = samplers::teacher_path(
        *network.guided.model, batch.latents, batch.condition, anchors);
    gits_.emplace(samplers::chord_deviation_costs(path), most, samplers::kGitsDiscount);
    student_ = samplers::student_state_search(*network.guided.model, batch.condition,
                                              anchors, path, network.info.sample_shape,
                                              most, true);
  }

  std::vector<std::pair<std::string, std::vector<double>>> of(int64_t steps) const {
    std::vector<std::pair<std::string, std::vector<double>>> all{
        {"edm", samplers::anchor_grid(info_, "edm", steps).times},
        {"logit-normal", samplers::anchor_grid(info_, "logit", steps).times},
        {"arctan", samplers::arctan_grid(info_, steps, data_std_).times}};
    if (gits_ && gits_->feasible(steps))
      all.emplace_back("gits",
                       samplers::schedule_of(anchors_, gits_->path(steps), "gits").times);
    if (!student_.anchors.empty())
      all.emplace_back("oss", samplers::schedule_of(anchors_, student_.median(steps), "oss")
                                  .times);
    return all;
  }

 private:
  ModelInfo info_;
  samplers::Schedule anchors_;
  double data_std_;
  std::optional<samplers::BellmanTable> gits_;
  samplers::StudentSchedules student_;
};

void log_rows(const std::vector<ReportRow>& rows, const std::map<int64_t, std::string>& chosen) {
  log_line("nfe  schedule       end error (RMSE)  knots");
  for (const ReportRow& row : rows) {
    std::vector<std::string> knots;
    for (const double knot : row.knots) knots.push_back(format("%.4g", knot));
    const bool mark = chosen.at(row.nfe) == row.method;
    log_line(format("%3lld %c%-13s  %-16.6f  %s", static_cast<long long>(row.nfe),
                    mark ? '*' : ' ', row.method.c_str(), row.rmse,
                    join(knots, " ").c_str()));
  }
}

void write_report(const std::string& path, const samplers::Straightness& straight,
                  const std::vector<ReportRow>& rows,
                  const std::map<int64_t, std::string>& chosen) {
  nlohmann::ordered_json j;
  j["straightness"] = {{"squared", straight.squared},
                       {"norm", straight.norm},
                       {"per_pixel", straight.per_pixel}};
  j["curvature"] = {{"times", straight.curvature_times}, {"rms", straight.curvature}};
  j["rows"] = nlohmann::ordered_json::array();
  for (const ReportRow& row : rows)
    j["rows"].push_back({{"nfe", row.nfe},
                         {"method", row.method},
                         {"chosen", chosen.at(row.nfe) == row.method},
                         {"rmse", row.rmse},
                         {"knots", row.knots}});
  write_file_atomic(path, j.dump(1) + "\n");
}

}  // namespace

int run_boss_report(std::span<const std::string> arguments) {
  CLI::App app("Straightness of a network's trajectories, and the end error of schedules.",
               "flowmap boss report");
  BossReportOptions o;
  declare_boss_report(app, o);
  if (!parse_arguments(app, arguments)) return 0;
  require_file(o.schedule, "--schedule");
  if (!o.json.empty()) prepare_output(o.json, o.overwrite, "--json");
  if (!o.samples.empty()) {
    require_ending(o.samples, ".png", "--samples");
    prepare_output(o.samples, o.overwrite, "--samples");
  }
  const auto reference = samplers::parse_teacher_solver(o.reference, "--reference");
  const samplers::ScheduleFile file = samplers::read_schedule_file(o.schedule);
  const BossNetwork network = load_boss_network(app, o.network);
  const PrecisionGuard precision(network.device.type(), network.precision);
  const ModelInfo& info = network.info;
  const StepSolver solver = samplers::parse_step_solver(file.step_solver, o.schedule);
  std::vector<int64_t> budgets;
  for (const auto& budget : file.budgets) budgets.push_back(budget.nfe);
  if (!o.nfe.empty()) budgets = parse_int_list(o.nfe, "--nfe");
  int64_t most = 1;
  for (const int64_t nfe : budgets) {  // refuses another network
    samplers::schedule_from_file(file, o.schedule, *network.bare, nfe, o.force);
    most = std::max(most, file.budget(nfe, o.schedule).steps);
  }
  samplers::Schedule anchors;
  anchors.times = file.anchors;
  anchors.sigma = file.sigma;
  anchors.source = file.grid;

  std::vector<std::int64_t> seeds;
  for (int64_t i = 0; i < o.num; ++i) seeds.push_back(kReportSeeds + i);
  std::vector<samplers::SearchBatch> batches;
  samplers::StraightnessSums straight_sums(info);
  const auto steps = static_cast<int64_t>(anchors.times.size()) - 1;
  for (const auto& batch_seeds : seed_batches(seeds, o.network.batch, steps, info, true)) {
    batches.push_back(boss_batch(network, o.network, batch_seeds));
    straight_sums.add(samplers::teacher_path(*network.guided.model, batches.back().latents,
                                             batches.back().condition, anchors));
  }
  const samplers::Straightness straight = straight_sums.result();
  log_line(format("straightness (%lld Euler steps, %lld noises): %.6g  integral of the "
                  "squared distance from the chord; %.6g without the square (SlimFlow); "
                  "%.6g an element (rfpp)",
                  static_cast<long long>(steps), static_cast<long long>(o.num),
                  straight.squared, straight.norm, straight.per_pixel));
  log_line("curvature by time (root mean square of the second derivative):");
  for (std::size_t i = 0; i < straight.curvature.size();
       i += std::max<std::size_t>(straight.curvature.size() / 10, 1))
    log_line(format("  t = %.3f  %.5g", straight.curvature_times[i], straight.curvature[i]));

  // A fine teacher needs its two ends only, and steps in between.
  samplers::Schedule ends = anchors;
  TeacherOptions fine{.solver = reference, .substeps = 1};
  if (reference != TeacherOptions::Solver::rk45)
    fine.substeps = std::max<int64_t>(1, o.reference_steps / steps);
  const samplers::EndError error(*network.guided.model, batches, ends, fine);
  const Comparisons others(network, anchors, batches.front(), solver, most,
                           error.end_deviation());
  std::vector<ReportRow> rows;
  std::map<int64_t, std::string> chosen;
  std::vector<std::pair<std::string, Image>> pictures;
  const auto sampler = samplers::make_sampler(samplers::step_solver_name(solver), Config());
  for (const int64_t nfe : budgets) {
    const samplers::ScheduleBudget& budget = file.budget(nfe, o.schedule);
    chosen[nfe] = budget.method;
    std::vector<std::pair<std::string, std::vector<double>>> all;
    for (const auto& candidate : budget.candidates)
      all.emplace_back(candidate.method, candidate.knots);
    for (auto& other : others.of(budget.steps))
      if (std::none_of(all.begin(), all.end(),
                       [&](const auto& one) { return one.first == other.first; }))
        all.push_back(std::move(other));
    for (const auto& [method, knots] : all) {
      samplers::Schedule schedule;
      schedule.times = knots;
      schedule.sigma = anchors.sigma;
      schedule.source = method;
      rows.push_back({nfe, method, knots, error(schedule, solver)});
      if (o.samples.empty()) continue;
      const samplers::SearchBatch& batch = batches.front();
      const at::Tensor samples =
          sampler->sample(*network.guided.model, batch.latents, batch.condition, schedule,
                          batch.draw).to(at::kCPU, at::kFloat);
      const int64_t shown = std::min<int64_t>(12, samples.size(0));
      pictures.emplace_back(
          format("%lld %s", static_cast<long long>(nfe), method.c_str()),
          samples_picture(samples.narrow(0, 0, shown), static_cast<int>(shown)));
    }
  }
  log_rows(rows, chosen);
  if (!o.json.empty()) {
    write_report(o.json, straight, rows, chosen);
    log_line("wrote " + o.json);
  }
  if (!o.samples.empty()) {
    write_png(o.samples, boss_samples_picture(pictures));
    log_line("wrote " + o.samples);
  }
  return 0;
}

}  // namespace flowmap::apps
