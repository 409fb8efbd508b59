#include "samplers/boss/sensitivity.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/ode.h"

namespace flowmap::samplers {
namespace {

std::vector<int64_t> batch_shape(int64_t batch, at::IntArrayRef shape) {
  std::vector<int64_t> whole{batch};
  whole.insert(whole.end(), shape.begin(), shape.end());
  return whole;
}

// u of every probe, each [B, d], with sum_k E (u_k . e)^2 = |e|^2.
std::vector<at::Tensor> probe_directions(const TeacherPath& path, int64_t probes,
                                         const Draw& draw) {
  const int64_t batch = path.states.size(1), d = path.states.size(2);
  std::vector<at::Tensor> directions;
  if (d <= probes) {
    for (int64_t k = 0; k < d; ++k) {
      at::Tensor u = at::zeros({batch, d}, path.states.options());
      u.select(1, k).fill_(1);
      directions.push_back(u);
    }
    return directions;
  }
  for (int64_t k = 0; k < probes; ++k)
    directions.push_back(draw.normal("probe" + std::to_string(k), {d})
                             .to(path.states.options()) /
                         std::sqrt(static_cast<double>(probes)));
  return directions;
}

// (a . e(i,j)) of all i < j for Euler steps, [j, B]: a [B, d] at anchor j.
at::Tensor euler_errors_along(const TeacherPath& path, int64_t j, const at::Tensor& a) {
  const auto along = [&](const at::Tensor& rows) {  // [n, B, d] -> [n, B]
    return at::bmm(rows.transpose(0, 1), a.unsqueeze(2)).squeeze(2).t();
  };
  const at::Tensor b = along(path.states.narrow(0, 0, j + 1));
  const at::Tensor t = at::tensor(path.anchors, at::kDouble).to(b.device());
  const at::Tensor h = (t[j] - t.narrow(0, 0, j)).unsqueeze(1);
  const at::Tensor from = b.narrow(0, 0, j);
  if (path.slopes.defined())
    return b[j] - from - h * along(path.slopes.narrow(0, 0, j));
  const at::Tensor gap = (t.narrow(0, 1, j) - t.narrow(0, 0, j)).unsqueeze(1);
  return b[j] - from - h / gap * (b.narrow(0, 1, j) - from);
}

// e(i,j) of a Heun step, [B, d].
at::Tensor heun_error(Ode& ode, const Schedule& anchors, const TeacherPath& path, int64_t i,
                      int64_t j, at::IntArrayRef whole) {
  const double from = anchors.times[static_cast<std::size_t>(i)];
  const double to = anchors.times[static_cast<std::size_t>(j)], h = to - from;
  const at::Tensor slope = path.slope(i);
  const at::Tensor predicted = path.states[i] + h * slope;
  if (anchors.sigma && to == 0) return path.states[j] - predicted;
  const at::Tensor second =
      ode.slope(predicted.reshape(whole), to).reshape(predicted.sizes());
  return path.states[j] - path.states[i] - 0.5 * h * (slope + second);
}

void record_heun(CostSums& sums, Model& model, const Condition& condition,
                 const Schedule& anchors, const TeacherPath& path, at::IntArrayRef shape,
                 const std::vector<at::Tensor>& directions) {
  const int64_t steps = path.steps(), n = steps + 1, batch = path.states.size(1);
  const std::vector<int64_t> whole = batch_shape(batch, shape);
  // J_j^T u of all anchors and probes, since the errors of a pair are made only once.
  std::vector<std::vector<at::Tensor>> adjoints(directions.size());
  for (std::size_t k = 0; k < directions.size(); ++k) {
    adjoints[k].resize(static_cast<std::size_t>(n));
    adjoint_sweep(model, condition, anchors, path, shape, directions[k],
                  [&](int64_t j, const at::Tensor& a) {
                    adjoints[k][static_cast<std::size_t>(j)] = a;
                  });
  }
  const at::NoGradGuard no_grad;
  Ode ode(model, condition, anchors, path.states[0].reshape(whole));
  at::Tensor squared = at::zeros({batch, n, n}, at::kDouble);
  at::Tensor carried = at::zeros({n, n}, at::kDouble);
  for (int64_t i = 0; i < steps; ++i)
    for (int64_t j = i + 1; j < n; ++j) {
      const at::Tensor e = heun_error(ode, anchors, path, i, j, whole);
      squared.select(1, i).select(1, j).copy_(e.square().sum(1));
      for (const auto& adjoint : adjoints)
        carried[i][j] += (e * adjoint[static_cast<std::size_t>(j)])
                             .sum(1).square().sum().to(at::kCPU);
    }
  for (int64_t row = 0; row < batch; ++row) sums.add_sample(squared[row]);
  if (!directions.empty()) sums.add_carried(carried);
}

}  // namespace

StepSolver parse_step_solver(const std::string& name, const std::string& flag) {
  if (name == "euler") return StepSolver::euler;
  if (name == "heun") return StepSolver::heun;
  static const std::vector<std::string> names{"euler", "heun"};
  throw UsageError(flag + ": no step solver is called '" + name + "'" +
                   suggestion(name, names));
}

const char* step_solver_name(StepSolver solver) {
  return solver == StepSolver::euler ? "euler" : "heun";
}

int64_t step_solver_evaluations(StepSolver solver, const Schedule& schedule) {
  const auto steps = static_cast<int64_t>(schedule.times.size()) - 1;
  if (solver == StepSolver::euler) return steps;
  return 2 * steps - (schedule.sigma && schedule.times.back() == 0 ? 1 : 0);
}

void adjoint_sweep(Model& model, const Condition& condition, const Schedule& anchors,
                   const TeacherPath& path, at::IntArrayRef shape, const at::Tensor& u,
                   const std::function<void(int64_t, const at::Tensor&)>& visit) {
  const std::vector<int64_t> whole = batch_shape(path.states.size(1), shape);
  Ode ode(model, condition, anchors, path.states[0].reshape(whole));
  at::Tensor a = u;
  for (int64_t j = path.steps();; --j) {
    visit(j, a);
    if (j == 1) return;
    const auto from = static_cast<std::size_t>(j - 1);
    const double h = anchors.times[from + 1] - anchors.times[from];
    const at::AutoGradMode with_grad(true);
    const at::Tensor x =
        path.states[j - 1].reshape(whole).detach().clone().requires_grad_(true);
    const at::Tensor slope = ode.slope(x, anchors.times[from]);
    FM_CHECK(slope.requires_grad(), "the network has no derivative by its input");
    const at::Tensor pulled =
        torch::autograd::grad({slope}, {x}, {a.reshape(whole)})[0].detach();
    a = a + h * pulled.reshape(a.sizes());
  }
}

void record_step_costs(CostSums& sums, Model& model, const Condition& condition,
                       const Schedule& anchors, const TeacherPath& path,
                       at::IntArrayRef shape, const StepCostOptions& options,
                       const Draw& draw) {
  FM_CHECK(path.anchors == anchors.times, "the path's anchors are not the schedule's");
  std::vector<at::Tensor> directions;
  if (options.probes > 0) directions = probe_directions(path, options.probes, draw);
  if (options.solver == StepSolver::heun) {
    record_heun(sums, model, condition, anchors, path, shape, directions);
    return;
  }
  sums.add_euler_steps(path);
  if (directions.empty()) return;
  const int64_t n = path.steps() + 1;
  at::Tensor carried = at::zeros({n, n}, at::kDouble);
  for (const at::Tensor& u : directions)
    adjoint_sweep(model, condition, anchors, path, shape, u,
                  [&](int64_t j, const at::Tensor& a) {
                    const at::Tensor errors = euler_errors_along(path, j, a);
                    carried.select(1, j).narrow(0, 0, j) +=
                        errors.square().sum(1).to(at::kCPU);
                  });
  sums.add_carried(carried);
}

int64_t step_cost_evaluations(const Schedule& anchors, const StepCostOptions& options,
                              int64_t elements) {
  const auto steps = static_cast<int64_t>(anchors.times.size()) - 1;
  const int64_t sweeps = std::min(options.probes, elements);
  return (options.solver == StepSolver::heun ? steps * (steps + 1) / 2 : 0) +
         3 * sweeps * (steps - 1);
}

}  // namespace flowmap::samplers
