#include "samplers/boss/schedule_file.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "flowmap/base/config.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/text.h"
#include "flowmap/model_checksum.h"

namespace flowmap::samplers {
namespace {

constexpr const char* kScheduleFormat = "flowmap-schedules 1";

// JSON has no NaN: null stands for it.
nlohmann::ordered_json number_or_null(double value) {
  if (!std::isfinite(value)) return nullptr;
  return value;
}

void check_knots_of_file(const std::vector<double>& knots, const ScheduleFile& file,
                         int64_t steps, const std::string& where) {
  const auto wrong = [&](const std::string& expected, const std::string& got) {
    throw DataError(where, {}, expected, got);
  };
  if (static_cast<int64_t>(knots.size()) != steps + 1)
    wrong(format("%lld knots for %lld steps", static_cast<long long>(steps + 1),
                 static_cast<long long>(steps)),
          std::to_string(knots.size()));
  const double direction = file.sigma ? -1 : 1;
  for (std::size_t i = 0; i < knots.size(); ++i) {
    if (!std::isfinite(knots[i]) || knots[i] < 0 || (!file.sigma && knots[i] > 1))
      wrong(file.sigma ? "noise levels from 0 on" : "times from 0 to 1",
            format("%g", knots[i]));
    if (i > 0 && !(direction * (knots[i] - knots[i - 1]) > 0))
      wrong(file.sigma ? "falling noise levels" : "rising times",
            format("%g after %g", knots[i], knots[i - 1]));
  }
  const double end = file.sigma ? 0 : 1;
  if (knots.back() != end)
    wrong(format("a last knot of %g", end), format("%g", knots.back()));
}

}  // namespace

const ScheduleBudget& ScheduleFile::budget(int64_t nfe, const std::string& where) const {
  std::vector<std::string> known;
  for (const ScheduleBudget& item : budgets) {
    if (item.nfe == nfe) return item;
    known.push_back(std::to_string(item.nfe));
  }
  throw UsageError(format("%s holds no schedule of %lld evaluations; it has %s",
                          where.c_str(), static_cast<long long>(nfe),
                          join(known, ", ").c_str()));
}

void write_schedule_file(const std::filesystem::path& path, const ScheduleFile& file) {
  nlohmann::ordered_json j;
  j["format"] = kScheduleFormat;
  j["tool"] = file.tool;
  j["network"] = file.network;
  j["network_file"] = file.network_file;
  j["sample_shape"] = file.sample_shape;
  j["unit"] = file.sigma ? "sigma" : "time";
  j["teacher"] = {{"solver", file.teacher}, {"substeps", file.substeps}};
  j["step_solver"] = file.step_solver;
  j["weight"] = file.weight;
  j["norm"] = file.norm;
  j["probes"] = file.probes;
  j["seeds"] = file.seeds;
  j["num"] = file.num;
  j["guidance"] = file.guidance;
  j["evaluations"] = file.evaluations;
  j["budgets"] = nlohmann::ordered_json::array();
  for (const ScheduleBudget& budget : file.budgets) {
    nlohmann::ordered_json item{{"nfe", budget.nfe},
                                {"steps", budget.steps},
                                {"method", budget.method},
                                {"knots", budget.knots}};
    item["candidates"] = nlohmann::ordered_json::array();
    for (const ScheduleCandidate& candidate : budget.candidates)
      item["candidates"].push_back({{"method", candidate.method},
                                    {"rmse", number_or_null(candidate.rmse)},
                                    {"cost", number_or_null(candidate.cost)},
                                    {"knots", candidate.knots}});
    j["budgets"].push_back(std::move(item));
  }
  j["grid"] = {{"name", file.grid}, {"anchors", file.anchors}};
  write_file_atomic(path, j.dump(1) + "\n");
}

ScheduleFile read_schedule_file(const std::filesystem::path& path) {
  const Config j = Config::from_file(path);
  const std::string format_name = j.string("format", "");
  if (format_name != kScheduleFormat)
    throw DataError(path.string(), {},
                    std::string("a file of schedules (\"format\": \"") + kScheduleFormat +
                        "\"), as 'flowmap boss search' writes it",
                    format_name.empty() ? "no \"format\"" : "'" + format_name + "'");
  static const std::vector<std::string> units{"time", "sigma"};
  ScheduleFile file;
  file.tool = j.string("tool");
  file.network = j.string("network");
  file.network_file = j.string("network_file");
  file.sample_shape = j.integers("sample_shape");
  file.sigma = j.choice("unit", units) == "sigma";
  file.teacher = j.string("teacher.solver");
  file.substeps = j.integer("teacher.substeps", {}, 1);
  file.step_solver = j.string("step_solver");
  file.weight = j.string("weight");
  file.norm = j.integer("norm", {}, 0, 2);
  file.probes = j.integer("probes", {}, 0);
  file.seeds = j.string("seeds");
  file.num = j.integer("num", {}, 1);
  file.guidance = j.number("guidance");
  file.evaluations = j.integer("evaluations", {}, 0);
  file.grid = j.string("grid.name");
  file.anchors = j.numbers("grid.anchors");
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  for (const Config& item : j.children("budgets")) {
    ScheduleBudget budget;
    budget.nfe = item.integer("nfe", {}, 1);
    budget.steps = item.integer("steps", {}, 1);
    budget.method = item.string("method");
    budget.knots = item.numbers("knots");
    const std::string where =
        path.string() + ": " + std::to_string(budget.nfe) + " evaluations";
    check_knots_of_file(budget.knots, file, budget.steps, where);
    for (const Config& one : item.children("candidates")) {
      ScheduleCandidate candidate;
      candidate.method = one.string("method");
      candidate.rmse = one.number("rmse", kNone);
      candidate.cost = one.number("cost", kNone);
      candidate.knots = one.numbers("knots");
      check_knots_of_file(candidate.knots, file, budget.steps,
                          where + ", " + candidate.method);
      budget.candidates.push_back(std::move(candidate));
    }
    file.budgets.push_back(std::move(budget));
  }
  if (file.budgets.empty())
    throw DataError(path.string(), {}, "at least one budget", "none");
  return file;
}

Schedule schedule_from_file(const ScheduleFile& file, const std::string& name,
                            const Model& model, int64_t nfe, bool force,
                            const std::string& method) {
  const ModelInfo info = model.info();
  const bool sigma = info.kind == ModelKind::denoiser;
  FM_CHECK_USAGE(file.sigma == sigma, name, ": knots in ", file.sigma ? "sigma" : "time",
                 ", but the network is a ", model_kind_name(info.kind));
  if (!force) {
    FM_CHECK_USAGE(file.sample_shape == info.sample_shape, name,
                   ": made for samples of shape ", at::IntArrayRef(file.sample_shape),
                   ", not ", at::IntArrayRef(info.sample_shape),
                   "; --force takes it all the same");
    const std::string checksum = model_checksum(model);
    FM_CHECK_USAGE(file.network == checksum, name, ": made for another network (",
                   file.network_file, ", checksum ", file.network.substr(0, 12),
                   "...; this one has ", checksum.substr(0, 12),
                   "...); search again, or pass --force");
  }
  const ScheduleBudget& budget = file.budget(nfe, name);
  Schedule schedule;
  schedule.times = budget.knots;
  schedule.sigma = sigma;
  schedule.source = name + " (" + budget.method + ")";
  if (method.empty()) return schedule;
  std::vector<std::string> known;
  for (const ScheduleCandidate& candidate : budget.candidates) {
    known.push_back(candidate.method);
    if (candidate.method != method) continue;
    schedule.times = candidate.knots;
    schedule.source = name + " (" + method + ")";
    return schedule;
  }
  throw UsageError(name + ": no schedule by '" + method + "'; it has " + join(known, ", "));
}

}  // namespace flowmap::samplers
