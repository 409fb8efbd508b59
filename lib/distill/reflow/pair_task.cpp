#include "distill/reflow/pair_task.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/euler_paths.h"

namespace flowmap::distill {

bool PathProbe::due(const StepContext& step) const {
  const int64_t seen = step.clock.images_seen;
  return every > 0 && (seen == 0 || seen / every != (seen - step.global_batch) / every);
}

void PathProbe::measure(Model& student, const Batch& batch, const Condition& condition,
                        const StepContext& step, LossResult& result) const {
  const int64_t here = std::min(rows - step.first_row, batch.x.size(0));
  if (!due(step) || here <= 0) return;
  const Condition theirs =
      condition.select(at::arange(here, at::TensorOptions(at::kLong).device(
                                            batch.x.device())));
  const samplers::EulerPaths paths =
      samplers::euler_paths(student, batch.noise.slice(0, 0, here), theirs, steps);
  const auto add = [&](const std::string& name, const at::Tensor& values) {
    result.stats.emplace_back("Paths/" + name, values.detach());
  };
  const at::Tensor squared = samplers::deviation_by_time(paths);
  add("straightness", squared.mean(0));
  add("straightness_per_pixel",
      squared.mean(0) / static_cast<double>(batch.x[0].numel()));
  add("straightness_norm", squared.sqrt().mean(0));
  add("pair_error", samplers::pair_error(paths.states[-1], batch.x.slice(0, 0, here)));
  const at::Tensor curvature = samplers::curvature_by_time(paths);
  const auto quarters = curvature.tensor_split(4, 0);
  for (std::size_t i = 0; i < quarters.size(); ++i)
    if (quarters[i].size(0) > 0)
      add("curvature_" + std::to_string(i + 1), quarters[i].mean(0));
}

PathProbe read_path_probe(const Config& method) {
  const Config options = method.child("probe");
  PathProbe probe;
  probe.every = options.count("every", 1, 50'000);
  probe.rows = options.integer("rows", 32, 1, 1 << 20);
  probe.steps = options.integer("steps", 16, 1, 1 << 20);
  return probe;
}

void require_linear_velocity(const ModelInfo& info, const std::string& method) {
  FM_CHECK_USAGE(info.kind == ModelKind::velocity, "method ", method, " trains a velocity "
                 "of one time, and this model is a ", model_kind_name(info.kind),
                 "; set preconditioning.type = flow and preconditioning.two_times = false");
  FM_CHECK_USAGE(info.interpolant == Interpolant::linear, "method ", method, " makes paths ",
                 "straight, which those of the trigonometric interpolant are not; set ",
                 "preconditioning.interpolant = linear");
}

PairTask::PairTask(const BuildContext& context, std::string name, int64_t default_steps)
    : name_(std::move(name)), default_steps_(default_steps) {
  players_.push_back(make_student(context));
  require_linear_velocity(student().info(), name_);
  const Config options = context.config.child("method");
  label_dropout_ = options.number("label_dropout", 0, 0, 1);
  FM_CHECK_USAGE(label_dropout_ == 0 || context.data.label_dim > 0,
                 options.where("label_dropout"),
                 ": method.label_dropout needs classes; set data.labels = true");
  probe_ = read_path_probe(options);
}

Model& PairTask::add_teacher(const BuildContext& context) {
  players_.push_back(read_frozen_teacher(context, name_, student().info()));
  return *players_.back().model;
}

std::string PairTask::snapshot_info() const {
  return format(R"({"method": "%s", "default_sampler": "euler", "default_steps": %lld})",
                name_.c_str(), static_cast<long long>(default_steps_));
}

Condition PairTask::condition_of(const Batch& batch, const StepContext& step) const {
  Condition condition{batch.labels, batch.augment_labels, {}};
  if (label_dropout_ > 0 && batch.labels.defined()) {
    const at::Tensor keep = step.draw.uniform("label_dropout", {}).ge(label_dropout_);
    condition.class_labels = batch.labels * keep.to(batch.labels).unsqueeze(1);
  }
  return condition;
}

at::Tensor PairTask::start(const at::Tensor& noise) const {
  const double b = players_[0].model->info().base_std;
  return b == 1 ? noise : noise * b;
}

LossResult PairTask::finish(const at::Tensor& raw, const Batch& batch,
                            const Condition& condition, const StepContext& step) {
  LossResult result;
  result.loss = raw.sum() / static_cast<double>(step.global_batch);
  result.stats.emplace_back("Loss/loss", raw.detach());
  probe_.measure(student(), batch, condition, step, result);
  return result;
}

}  // namespace flowmap::distill
