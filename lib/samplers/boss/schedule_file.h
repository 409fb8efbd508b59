// Schedules in a file: what a search found for a network, to be replayed by any sampler.
//
// {"format": "flowmap-schedules 1", "network": SHA-256 of the weights, "network_file",
//  "tool", "unit": "time" | "sigma", "sample_shape", "grid": {"name", "anchors": [...]},
//  "teacher": {"solver", "substeps"}, "step_solver", "weight", "norm", "probes", "seeds",
//  "num", "guidance", "evaluations", "budgets": [{"nfe", "steps", "method", "knots": [...],
//  "candidates": [{"method", "knots", "cost", "rmse"}, ...]}, ...]}
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "samplers/sampler.h"

namespace flowmap::samplers {

struct ScheduleCandidate {
  std::string method;          // "uniform", "edm", "boss", "sensitivity", ...
  std::vector<double> knots;   // in the file's unit
  double cost = 0;             // of its own search; NaN where there is none (null)
  double rmse = 0;             // root mean square error of samples at the end
};

struct ScheduleBudget {
  int64_t nfe = 0, steps = 0;  // evaluations and steps of the step solver
  std::string method;          // the candidate that was chosen
  std::vector<double> knots;   // its knots, steps + 1
  std::vector<ScheduleCandidate> candidates;
};

struct ScheduleFile {
  std::string network, network_file, tool;
  bool sigma = false;
  std::vector<int64_t> sample_shape;
  std::string grid;
  std::vector<double> anchors;
  std::string teacher, step_solver, weight, seeds;
  int64_t substeps = 1, norm = 0, probes = 0, num = 0;  // norm 0: both
  double guidance = 1;
  int64_t evaluations = 0;  // of the network, the whole search
  std::vector<ScheduleBudget> budgets;  // rising in nfe

  // Throws UsageError naming `where` and the budgets that are there.
  const ScheduleBudget& budget(int64_t nfe, const std::string& where) const;
};

// Atomic.
void write_schedule_file(const std::filesystem::path& path, const ScheduleFile& file);
// Throws UsageError or DataError naming the file and the key that is missing or wrong, and
// what was expected: knots that are not monotone or leave the anchors' range, a cut file.
ScheduleFile read_schedule_file(const std::filesystem::path& path);

// The schedule of `nfe` evaluations for a model. Throws UsageError where the file was made
// for other weights (naming both checksums) unless `force`, for another unit or sample
// shape, or has no such budget. `method`: a candidate by name instead of the chosen one.
Schedule schedule_from_file(const ScheduleFile& file, const std::string& name,
                            const Model& model, int64_t nfe, bool force,
                            const std::string& method = {});

}  // namespace flowmap::samplers
