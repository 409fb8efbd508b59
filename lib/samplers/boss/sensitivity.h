// Local errors as the end of the trajectory sees them.
//
// An error e at anchor j arrives at the end as J_j e, J_j the derivative of the path's last
// state by its state at j. For u with E[u u^T] = 1, E (u . J_j e)^2 = |J_j e|^2, and
// J_j^T u of every anchor comes out of one sweep backwards through the path: T reverse
// passes of the network for one probe. Forward perturbations would need T^2/2 evaluations
// for one direction of error alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "flowmap/draw.h"
#include "samplers/boss/cost_matrix.h"
#include "samplers/boss/teacher.h"

namespace flowmap::samplers {

enum class StepSolver { euler, heun };
// "euler", "heun"; throws UsageError on another name, saying `flag`.
StepSolver parse_step_solver(const std::string& name, const std::string& flag);
const char* step_solver_name(StepSolver solver);
// Network evaluations of `steps` steps: Heun's last step to sigma 0 takes one.
int64_t step_solver_evaluations(StepSolver solver, const Schedule& schedule);

struct StepCostOptions {
  StepSolver solver = StepSolver::euler;
  // Random directions u a sample; 0: no sensitivities. Where a sample has no more elements
  // than this, its coordinate directions are taken, and |J e|^2 is exact.
  int64_t probes = 0;
};

// Adds the costs of every step between two anchors for the samples of a path. Euler: no
// further evaluations (CostSums::add_euler_steps), and T reverse passes a probe. Heun
// (x_i + h/2 (v_i + v(x_i + h v_i, t_j))): one evaluation a pair, T(T+1)/2 in all. `shape`:
// of a sample. Directions come from `draw`, stream "probe<k>".
void record_step_costs(CostSums& sums, Model& model, const Condition& condition,
                       const Schedule& anchors, const TeacherPath& path,
                       at::IntArrayRef shape, const StepCostOptions& options,
                       const Draw& draw);
// Network evaluations a sample of record_step_costs; a reverse pass counts as three.
int64_t step_cost_evaluations(const Schedule& anchors, const StepCostOptions& options,
                              int64_t elements);

// J_j^T u for j = T ... 1, in that order: `visit(j, a)` with a [B, d] float64. The path is
// linearised as Euler steps between its anchors. u [B, d].
void adjoint_sweep(Model& model, const Condition& condition, const Schedule& anchors,
                   const TeacherPath& path, at::IntArrayRef shape, const at::Tensor& u,
                   const std::function<void(int64_t, const at::Tensor&)>& visit);

}  // namespace flowmap::samplers
