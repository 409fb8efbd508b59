#include "samplers/boss/search.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/boss/anchors.h"
#include "samplers/boss/bellman.h"

namespace flowmap::samplers {

SearchBatch search_batch(const ModelInfo& info, const std::vector<std::uint64_t>& seeds,
                         const at::Tensor& class_of, double guidance,
                         const at::TensorOptions& options) {
  const Draw draw = Draw::per_seed(seeds);
  SearchBatch batch{draw.normal("latents", info.sample_shape).to(options), {}, draw};
  if (info.label_dim > 0) {
    const at::Tensor classes =
        class_of.defined() ? class_of : draw.integer("class", {}, info.label_dim);
    batch.condition.class_labels = at::one_hot(classes, info.label_dim).to(options);
  }
  if (info.guidance_input)
    batch.condition.guidance =
        at::full({static_cast<int64_t>(seeds.size())}, guidance, options);
  return batch;
}

EndError::EndError(Model& model, const std::vector<SearchBatch>& batches,
                   const Schedule& anchors, const TeacherOptions& reference)
    : model_(model), batches_(batches) {
  for (const SearchBatch& batch : batches_) {
    const TeacherPath path =
        teacher_path(model, batch.latents, batch.condition, anchors, reference);
    ends_.push_back(path.states[path.steps()].clone().reshape(batch.latents.sizes()));
    evaluations_ += batch.latents.size(0) * teacher_evaluations(anchors, reference);
  }
}

int64_t EndError::samples() const {
  int64_t total = 0;
  for (const at::Tensor& end : ends_) total += end.size(0);
  return total;
}

double EndError::operator()(const Schedule& schedule, StepSolver solver) const {
  const at::NoGradGuard no_grad;
  const auto sampler = make_sampler(step_solver_name(solver), Config());
  double sum = 0, count = 0;
  for (std::size_t i = 0; i < batches_.size(); ++i) {
    const SearchBatch& batch = batches_[i];
    const at::Tensor samples = sampler->sample(model_, batch.latents, batch.condition,
                                               schedule, batch.draw);
    sum += (samples.to(at::kDouble) - ends_[i]).square().sum().item<double>();
    count += static_cast<double>(samples.numel());
    evaluations_ += batch.latents.size(0) * step_solver_evaluations(solver, schedule);
  }
  return std::sqrt(sum / count);
}

double EndError::end_deviation() const {
  const at::Tensor all = at::cat(ends_);
  return (all - all.mean(0, true)).square().mean().sqrt().item<double>();
}

Schedule schedule_of(const Schedule& anchors, const std::vector<int64_t>& path,
                     const std::string& source) {
  Schedule schedule;
  schedule.sigma = anchors.sigma;
  schedule.source = source;
  for (const int64_t anchor : path)
    schedule.times.push_back(anchors.times.at(static_cast<std::size_t>(anchor)));
  return schedule;
}

int64_t steps_of_budget(const ModelInfo& info, StepSolver solver, int64_t nfe,
                        int64_t anchor_steps) {
  // Heun: two evaluations a step, but one for a denoiser's last.
  const int64_t saved = info.kind == ModelKind::denoiser ? 1 : 0;
  const int64_t steps = solver == StepSolver::euler ? nfe : (nfe + saved) / 2;
  const int64_t most = solver == StepSolver::euler ? anchor_steps : 2 * anchor_steps - saved;
  const bool whole = solver == StepSolver::euler || 2 * steps - saved == nfe;
  FM_CHECK_USAGE(nfe >= 1 && nfe <= most && steps >= 1, "--nfe: ", nfe,
                 " evaluations; ", anchor_steps, " steps between anchors allow ",
                 solver == StepSolver::heun && saved == 0 ? 2 : 1, " to ", most);
  FM_CHECK_USAGE(whole, "--nfe: ", nfe, " evaluations are no whole number of Heun steps; "
                 "take ", 2 * steps - saved, " or ", 2 * (steps + 1) - saved);
  return steps;
}

std::vector<ScheduleBudget> choose_schedules(const ModelInfo& info, const CostSums& costs,
                                             const Schedule& anchors,
                                             const std::vector<int64_t>& budgets,
                                             StepSolver solver, int norm,
                                             const EndError& error) {
  int64_t most = 1;
  for (const int64_t nfe : budgets)
    most = std::max(most, steps_of_budget(info, solver, nfe, costs.steps()));
  // Each search by its own name; of the two norms, the usual one has the plain name.
  std::vector<std::pair<std::string, BellmanTable>> searches;
  for (const int power : {2, 1})
    if (norm == 0 || norm == power)
      searches.emplace_back(norm == 0 && power == 1 ? "boss-l1" : "boss",
                            BellmanTable(costs.plain(power), most));
  for (const int power : {1, 2})
    if (costs.has_carried() && (norm == 0 || norm == power))
      searches.emplace_back(norm == 0 && power == 2 ? "sensitivity-l2" : "sensitivity",
                            BellmanTable(costs.carried(power), most));
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  std::vector<ScheduleBudget> chosen;
  for (const int64_t nfe : budgets) {
    ScheduleBudget budget;
    budget.nfe = nfe;
    budget.steps = steps_of_budget(info, solver, nfe, costs.steps());
    const auto consider = [&](const std::string& method, const Schedule& schedule,
                              double cost) {
      budget.candidates.push_back({method, schedule.times, cost, error(schedule, solver)});
    };
    consider("uniform", anchor_grid(info, "uniform", budget.steps), kNone);
    if (info.kind == ModelKind::denoiser)
      consider("edm", anchor_grid(info, "edm", budget.steps), kNone);
    for (const auto& [method, table] : searches)
      consider(method, schedule_of(anchors, table.path(budget.steps), method),
               table.cost(0, budget.steps));
    const ScheduleCandidate* best = &budget.candidates.front();
    for (const ScheduleCandidate& candidate : budget.candidates)
      if (candidate.rmse < best->rmse) best = &candidate;
    budget.method = best->method;
    budget.knots = best->knots;
    chosen.push_back(std::move(budget));
  }
  return chosen;
}

}  // namespace flowmap::samplers
