// `bench_boss_search table`: end errors of schedules on flows with closed forms, as Markdown
// (docs/boss.md). Otherwise what the step search costs beside the network: the costs of one
// noise's trajectory against the number of anchors and the size of the images, with a
// synthetic network (a linear flow, whose time is next to nothing), and the floor: the
// multiply-adds of one symmetric product of the states at the rate of a large matrix product
// in the same run.
#include <ATen/ATen.h>

#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "samplers/boss/anchors.h"
#include "samplers/boss/bellman.h"
#include "samplers/boss/search.h"
#include "samplers/boss/sensitivity.h"
#include "samplers/boss/student_states.h"
#include "tests/support/analytic_models.h"
#include "tests/support/diagonal_flow.h"

namespace {

using flowmap::samplers::CostSums;
using flowmap::samplers::Schedule;
using flowmap::samplers::TeacherPath;

// Multiply-adds a second of float64 matrix products.
double product_rate() {
  static const double rate = [] {
    const at::Tensor a = at::randn({1024, 1024}, at::kDouble);
    double best = 1e9;
    for (int i = 0; i < 4; ++i) {
      const auto start = std::chrono::steady_clock::now();
      benchmark::DoNotOptimize(at::mm(a, a).const_data_ptr());
      best = std::min(best, std::chrono::duration<double>(
                                std::chrono::steady_clock::now() - start).count());
    }
    return 1024.0 * 1024 * 1024 / best;
  }();
  return rate;
}

double peak_megabytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

// Arguments: anchors, pixels a side, probes.
void step_costs(benchmark::State& state) {
  const int64_t anchors = state.range(0), side = state.range(1);
  const std::vector<int64_t> shape{3, side, side};
  flowmap::testing::GaussianFlow flow(shape, 0, 1, 0.2, 0.4);
  const Schedule grid = flowmap::samplers::anchor_grid(flow.info(), "uniform", anchors);
  const at::Tensor z = flowmap::Draw(1, 0, 1).normal("z", shape);
  const TeacherPath path = flowmap::samplers::teacher_path(flow, z, {}, grid);
  for (auto _ : state) {
    CostSums sums(grid.times);
    flowmap::samplers::record_step_costs(sums, flow, {}, grid, path, shape,
                                         {.probes = state.range(2)},
                                         flowmap::Draw(1, 0, 1));
    benchmark::DoNotOptimize(sums.plain(2).const_data_ptr());
  }
  const double elements = 3.0 * static_cast<double>(side * side);
  const double adds = static_cast<double>((anchors + 1) * (anchors + 2)) / 2 * elements;
  state.counters["floor_ms"] = 1e3 * adds / product_rate();
  state.counters["states_MB"] = static_cast<double>(anchors + 1) * elements * 8 / 1e6;
  state.counters["peak_MB"] = peak_megabytes();
}
BENCHMARK(step_costs)
    ->ArgNames({"anchors", "side", "probes"})
    ->Args({25, 32, 0})->Args({50, 32, 0})->Args({100, 32, 0})->Args({200, 32, 0})
    ->Args({100, 64, 0})->Args({100, 128, 0})->Args({100, 256, 0})->Args({100, 256, 1})
    ->Unit(benchmark::kMillisecond);

void dynamic_programming(benchmark::State& state) {
  const int64_t n = state.range(0) + 1;
  const at::Tensor cost = at::rand({n, n}, at::kDouble);
  for (auto _ : state)
    benchmark::DoNotOptimize(flowmap::samplers::BellmanTable(cost, 10).cost(0, 10));
}
BENCHMARK(dynamic_programming)->ArgName("anchors")->Arg(100)->Arg(400)
    ->Unit(benchmark::kMicrosecond);

flowmap::samplers::SearchBatch noises(const flowmap::ModelInfo& info, std::uint64_t first) {
  std::vector<std::uint64_t> seeds;
  for (std::uint64_t i = 0; i < 256; ++i) seeds.push_back(first + i);
  return flowmap::samplers::search_batch(info, seeds, {}, 1, at::kDouble);
}

// Rows: schedules; columns: Euler steps. Costs from 256 noises, schedules chosen by 256
// others, errors of 256 further ones against Heun's 1,000 steps.
void print_table(const std::string& title, flowmap::Model& model) {
  namespace fs = flowmap::samplers;
  const flowmap::ModelInfo info = model.info();
  const Schedule anchors = fs::anchor_grid(info, "uniform", 100);
  const fs::SearchBatch train = noises(info, 0);
  const TeacherPath path = fs::teacher_path(model, train.latents, {}, anchors);
  CostSums sums(anchors.times);
  fs::record_step_costs(sums, model, {}, anchors, path, info.sample_shape, {.probes = 2},
                        train.draw);
  const fs::StudentSchedules student = fs::student_state_search(
      model, {}, anchors, path, info.sample_shape, 10, true);
  const fs::BellmanTable gits(fs::chord_deviation_costs(path), 10, fs::kGitsDiscount);
  const fs::TeacherOptions fine{.solver = fs::TeacherOptions::Solver::heun, .substeps = 10};
  const std::vector<fs::SearchBatch> check{noises(info, 1000)}, test{noises(info, 2000)};
  const fs::EndError chooser(model, check, anchors, fine), error(model, test, anchors, fine);
  std::vector<int64_t> budgets;
  for (int64_t k = 1; k <= 10; ++k) budgets.push_back(k);
  const auto chosen = fs::choose_schedules(info, sums, anchors, budgets,
                                           fs::StepSolver::euler, 0, chooser);
  std::vector<std::pair<std::string, std::vector<double>>> rows;
  const auto row = [&](const std::string& name, auto&& schedule_at) {
    std::vector<double> errors;
    for (const int64_t k : budgets)
      errors.push_back(error(schedule_at(k), fs::StepSolver::euler));
    rows.emplace_back(name, errors);
  };
  const auto candidate = [&](const char* method) {
    return [&, method](int64_t k) {
      Schedule schedule;
      for (const auto& one : chosen[static_cast<std::size_t>(k - 1)].candidates)
        if (one.method == method) schedule.times = one.knots;
      return schedule;
    };
  };
  row("uniform", candidate("uniform"));
  row("EDM, rho 7", [&](int64_t k) { return fs::anchor_grid(info, "edm", k); });
  row("logit-normal", [&](int64_t k) { return fs::anchor_grid(info, "logit", k); });
  row("arctan", [&](int64_t k) {
    return fs::arctan_grid(info, k, error.end_deviation());
  });
  row("GITS", [&](int64_t k) { return fs::schedule_of(anchors, gits.path(k), "gits"); });
  row("OSS", [&](int64_t k) { return fs::schedule_of(anchors, student.median(k), "oss"); });
  row("BOSS", candidate("boss"));
  row("sensitivity", candidate("sensitivity"));
  row("sensitivity, squares", candidate("sensitivity-l2"));
  row("**chosen**", [&](int64_t k) {
    Schedule schedule;
    schedule.times = chosen[static_cast<std::size_t>(k - 1)].knots;
    return schedule;
  });
  std::printf("\n%s\n\n| schedule |", title.c_str());
  for (const int64_t k : budgets) std::printf(" %d |", static_cast<int>(k));
  std::printf("\n|---|");
  for (std::size_t k = 0; k < budgets.size(); ++k) std::printf("---|");
  for (const auto& [name, errors] : rows) {
    std::printf("\n| %s |", name.c_str());
    for (const double value : errors) std::printf(" %.4f |", value);
  }
  std::printf("\n");
}

void print_tables() {
  using flowmap::testing::DiagonalFlow;
  DiagonalFlow one({0.3}), two({1, 0.1});
  std::vector<double> spectrum;
  for (int f = 1; f <= 16; ++f)
    for (int n = 0; n < f; ++n) spectrum.push_back(4.0 / f);
  DiagonalFlow natural(spectrum);
  flowmap::testing::MixtureModel mixture(
      flowmap::ModelKind::velocity, {2}, at::full({3}, 1 / 3.0, at::kDouble),
      at::tensor({-1.5, 0.2, 1.1, 1.0, 0.4, -1.3}, at::kDouble).reshape({3, 2}),
      at::tensor({0.1, 0.3, 0.2}, at::kDouble));
  print_table("Gaussian, deviation 0.3:", one);
  print_table("Gaussian in two dimensions, deviations 1 and 0.1:", two);
  print_table("Gaussian of 136 dimensions, deviation 4/f with multiplicity f, f = 1...16:",
              natural);
  print_table("Mixture of three Gaussians in two dimensions:", mixture);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "table") {
    print_tables();
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
