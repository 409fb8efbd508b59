// From costs to schedules that are held against the ones without a search.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "flowmap/draw.h"
#include "samplers/boss/cost_matrix.h"
#include "samplers/boss/schedule_file.h"
#include "samplers/boss/sensitivity.h"

namespace flowmap::samplers {

// Noises of some seeds, as generate_batches makes them (engine.h).
struct SearchBatch {
  at::Tensor latents;  // [B, sample...] unit normals
  Condition condition;
  Draw draw;
};
// class_of: a class a seed, or undefined: conditional models then draw one from the seed.
SearchBatch search_batch(const ModelInfo& info, const std::vector<std::uint64_t>& seeds,
                         const at::Tensor& class_of, double guidance,
                         const at::TensorOptions& options);

// Root mean square error (over samples and elements) of a step solver's samples against the
// ends of the same noises' trajectories by a fine reference.
class EndError {
 public:
  // `batches` and `model` are kept by the caller. The reference: a teacher on `anchors`.
  EndError(Model& model, const std::vector<SearchBatch>& batches, const Schedule& anchors,
           const TeacherOptions& reference);
  double operator()(const Schedule& schedule, StepSolver solver) const;
  int64_t evaluations() const { return evaluations_; }  // spent so far
  int64_t samples() const;
  // Root mean square over samples of the distance from their mean, an element.
  double end_deviation() const;

 private:
  Model& model_;
  const std::vector<SearchBatch>& batches_;
  std::vector<at::Tensor> ends_;  // [B, sample...] float64
  mutable int64_t evaluations_ = 0;
};

// The knots of a path over anchors.
Schedule schedule_of(const Schedule& anchors, const std::vector<int64_t>& path,
                     const std::string& source);

// For each number of evaluations: uniform steps in our clock, EDM's noise levels where the
// model is a denoiser, the cheapest paths by plain costs ("boss": squares, "boss-l1": norms)
// and by the errors carried to the end where there are any ("sensitivity": root mean
// squares, "sensitivity-l2": squares). norm: 0 both, else 1 or 2 alone, under the plain
// names. The schedule with the smallest end error is chosen, so that a search is never worse
// than none on the noises that it was checked with; of equals the first. Throws UsageError
// where a budget exceeds the anchors, naming the range.
std::vector<ScheduleBudget> choose_schedules(const ModelInfo& info, const CostSums& costs,
                                             const Schedule& anchors,
                                             const std::vector<int64_t>& budgets,
                                             StepSolver solver, int norm,
                                             const EndError& error);

// Steps that a budget of evaluations pays for; UsageError where it pays for none or more
// than there are anchors.
int64_t steps_of_budget(const ModelInfo& info, StepSolver solver, int64_t nfe,
                        int64_t anchor_steps);

}  // namespace flowmap::samplers
