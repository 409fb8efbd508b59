// The teacher's trajectories on a grid of anchors.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "samplers/sampler.h"

namespace flowmap::samplers {

struct TeacherOptions {
  enum class Solver { euler, heun, rk45 };
  Solver solver = Solver::euler;
  // euler, heun: equal steps between two anchors. Euler's own steps cost nothing where they
  // are one: c(i, i+1) = 0.
  int64_t substeps = 1;
  double rtol = 1e-6, atol = 1e-6;  // rk45
};
// "euler", "heun", "rk45"; throws UsageError on another name, saying `flag`.
TeacherOptions::Solver parse_teacher_solver(const std::string& name,
                                            const std::string& flag);
const char* teacher_solver_name(TeacherOptions::Solver solver);

// States at the anchors and the slopes dx/dk there, k the schedule's unit.
struct TeacherPath {
  std::vector<double> anchors;  // [T+1]
  at::Tensor states;            // [T+1, B, d] float64
  // [T, B, d] float64; undefined for one Euler step between anchors, whose slopes are the
  // differences of the states.
  at::Tensor slopes;

  int64_t steps() const { return static_cast<int64_t>(anchors.size()) - 1; }
  // Slope at anchor i < T, [B, d].
  at::Tensor slope(int64_t i) const;
};

// latents: unit normals [B, sample...]. No gradients. Throws Error naming the row and the
// anchor where a state is not finite, UsageError where the unit is not the model's.
TeacherPath teacher_path(Model& model, const at::Tensor& latents,
                         const Condition& condition, const Schedule& anchors,
                         const TeacherOptions& options = {});
// Network evaluations per sample, 0 for rk45 (by tolerance).
int64_t teacher_evaluations(const Schedule& anchors, const TeacherOptions& options);

}  // namespace flowmap::samplers
