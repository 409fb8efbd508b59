// Lagrangian self-distillation (Boffi, Albergo, Vanden-Eijnden, arXiv 2505.18825), and
// its frozen-teacher form (Lagrangian map distillation, arXiv 2406.07507).
#include <ATen/ATen.h>

#include <cmath>

#include "distill/flow_map_losses.h"
#include "distill/method.h"
#include "distill/weight_options.h"
#include "flowmap/base/error.h"
#include "flowmap/interpolant.h"
#include "flowmap/precision.h"
#include "flowmap/time_sampling.h"
#include "flowmap/train/snapshot.h"

namespace flowmap::distill {
namespace {

// Each sample of the batch is either diagonal (flow matching at t, fraction eta) or
// off-diagonal (the Lagrangian residual at s < t). Objective: the mean over the batch of
// the weighted raw losses, which are sums over dimensions.
class LagrangianSelfDistillation : public Task {
 public:
  explicit LagrangianSelfDistillation(const BuildContext& context);

  std::vector<Player>& players() override { return players_; }
  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override;
  std::string snapshot_info() const override {
    return R"({"method": "lsd", "default_sampler": "flow_map", "default_steps": 1})";
  }

 private:
  struct Terms {
    at::Tensor raw, weighted;  // [rows]
  };
  Terms diagonal(const Batch& batch, const StepContext& step, const at::Tensor& rows);
  Terms lagrangian(const Batch& batch, const StepContext& step, const at::Tensor& rows);

  double eta_, off_diagonal_weight_;
  StopGradient stop_;
  LossWeighting weighting_;
  TimeSampler diagonal_times_;
  TimePairSampler pair_times_;
  bool regress_teacher_ = false;
  Precision jvp_precision_;
  std::vector<Player> players_;
  Model* teacher_ = nullptr;  // the student itself, or the frozen player
};

// The `sample`-th sample of the run is off-diagonal where the running count of such
// samples steps up. So the share is exact whatever the batch (1 too), and micro-batches
// and ranks see the mix that one big batch would: a layout [diagonal | off-diagonal] cut
// into shards would not give it.
bool is_off_diagonal(int64_t sample, double eta) {
  constexpr int64_t kUnit = 1'000'000;
  const auto share = static_cast<int64_t>(std::llround((1 - eta) * kUnit));
  const int64_t place = sample % kUnit;  // a whole number of rounds adds whole counts
  return (place + 1) * share / kUnit > place * share / kUnit;
}

LagrangianSelfDistillation::LagrangianSelfDistillation(const BuildContext& context) {
  const Config options = context.config.child("method");
  eta_ = options.number("eta", 0.75, 0, 1);
  off_diagonal_weight_ = options.number("off_diagonal_weight", 1, 0, 1e6);
  const std::vector<std::string> stops = {"convex", "none", "detached"};
  const std::string stop = options.choice("stop_gradient", stops, "convex");
  stop_ = stop == "convex" ? StopGradient::convex
          : stop == "none" ? StopGradient::none
                           : StopGradient::detached;
  diagonal_times_ = read_time_sampler(options.child("times"));
  pair_times_.zero_probability = options.number("zero_probability", 0, 0, 1);
  jvp_precision_ =
      parse_precision(options.string("jvp_dtype", "float32"), "method.jvp_dtype");

  players_.push_back(make_student(context));
  Model& student = *players_[0].model;
  FM_CHECK_USAGE(student.info().kind == ModelKind::flow_map,
                 "method lsd trains a flow map; set preconditioning.two_times = true ",
                 "(the network then takes s and t)");
  const std::vector<std::string> weights = {"none", "learned", "adaptive"};
  const std::string weight = options.choice(
      "weight", weights, student.has_log_weight() ? "learned" : "none");
  weighting_.rule = weight == "none"      ? LossWeight::none
                    : weight == "learned" ? LossWeight::learned
                                          : LossWeight::adaptive;
  FM_CHECK_USAGE(weight != "learned" || student.has_log_weight(),
                 options.where("weight"), ": method.weight = learned needs ",
                 "preconditioning.log_weight = true");
  if (weight == "adaptive") {
    weighting_.p = options.number("adaptive_p", 0.5, 0, 2);
    weighting_.c = options.number("adaptive_c", 0.01, 0, 1e6);
  }

  const std::string teacher = options.path("teacher", "");
  const WeightOptions how = read_weight_options(context.config, "method.teacher_options");
  if (teacher.empty()) {
    FM_CHECK_USAGE(how.where.empty(), how.where, ": method.teacher_options is given, but ",
                   "no method.teacher");
    teacher_ = players_[0].model.get();
    return;
  }
  const std::vector<std::string> targets = {"data", "teacher"};
  regress_teacher_ =
      options.choice("diagonal_target", targets, "teacher") == "teacher";
  Snapshot snapshot;
  load_with(how, [&](const LoadOptions& load) { snapshot = load_snapshot(teacher, load); });
  const ModelInfo theirs = snapshot.model->info(), ours = student.info();
  FM_CHECK_USAGE(theirs.sample_shape == ours.sample_shape, options.where("teacher"),
                 ": the teacher ", teacher, " was made for samples of another shape");
  FM_CHECK_USAGE(theirs.label_dim == 0 || theirs.label_dim == ours.label_dim,
                 options.where("teacher"), ": the teacher ", teacher, " knows ",
                 theirs.label_dim, " classes, the student ", ours.label_dim,
                 "; set data.labels = true with data of the teacher's classes");
  FM_CHECK_USAGE(theirs.base_std == ours.base_std, options.where("teacher"),
                 ": the teacher's noise has standard deviation ", theirs.base_std,
                 ", the student's ", ours.base_std,
                 "; set preconditioning.base_std to the teacher's");
  players_.push_back({"teacher", snapshot.model, snapshot.spec_json, false});
  teacher_ = players_[1].model.get();
}

LagrangianSelfDistillation::Terms LagrangianSelfDistillation::diagonal(
    const Batch& batch, const StepContext& step, const at::Tensor& rows) {
  Model& student = *players_[0].model;
  const Draw draw = step.draw.select(rows);
  const at::Tensor x1 = batch.x.index_select(0, rows);
  const at::Tensor t = diagonal_times_.sample(draw, "time").to(x1.device());
  const at::Tensor noise =
      draw.normal("noise", x1.sizes().slice(1)).to(x1.device());
  const Interpolated point = interpolate(x1, noise, t, student.info().base_std);
  const Condition condition = Condition{batch.labels, {}, {}}.select(rows);
  at::Tensor target = point.target;
  if (regress_teacher_) {
    const at::NoGradGuard no_grad;
    Context plain;
    target = teacher_->velocity(point.x, t, condition, plain).value.to(x1.dtype());
  }
  Context context = step.training_context(draw);
  const at::Tensor raw =
      diagonal_loss(student, point.x, t, target, condition, context);
  return {raw, weighting_.apply(student, raw, t, t)};
}

LagrangianSelfDistillation::Terms LagrangianSelfDistillation::lagrangian(
    const Batch& batch, const StepContext& step, const at::Tensor& rows) {
  Model& student = *players_[0].model;
  const PrecisionGuard jvp_precision(batch.x.device().type(), jvp_precision_);
  const Draw draw = step.draw.select(rows);
  const at::Tensor x1 = batch.x.index_select(0, rows);
  const TimePairSampler::Pair time = pair_times_.sample(draw, "pair");
  const at::Tensor s = time.s.to(x1.device()), t = time.t.to(x1.device());
  const at::Tensor noise =
      draw.normal("noise", x1.sizes().slice(1)).to(x1.device());
  const Interpolated point = interpolate(x1, noise, s, student.info().base_std);
  const Condition condition = Condition{batch.labels, {}, {}}.select(rows);
  // Dropout is off for student and teacher alike: both must be the same function.
  Context context = step.plain_context();
  const at::Tensor raw = lagrangian_loss(student, *teacher_, point.x, s, t, condition,
                                         context, stop_);
  return {raw, off_diagonal_weight_ * weighting_.apply(student, raw, s, t)};
}

LossResult LagrangianSelfDistillation::loss(const Turn&, const Batch& batch,
                                            const StepContext& step) {
  std::vector<int64_t> on, off;
  for (int64_t i = 0; i < batch.x.size(0); ++i)
    (is_off_diagonal(step.clock.images_seen + step.first_row + i, eta_) ? off : on)
        .push_back(i);
  LossResult result;
  at::Tensor total;
  const auto take = [&](const Terms& terms, const char* name) {
    const at::Tensor part = terms.weighted.sum();
    total = total.defined() ? total + part : part;
    result.stats.emplace_back(name, terms.raw.detach());
    result.stats.emplace_back("Loss/loss", terms.weighted.detach());
  };
  if (!on.empty())
    take(diagonal(batch, step, at::tensor(on, at::kLong)), "Loss/diagonal");
  if (!off.empty())
    take(lagrangian(batch, step, at::tensor(off, at::kLong)), "Loss/lagrangian");
  result.loss = total / static_cast<double>(step.global_batch);
  return result;
}

}  // namespace

std::shared_ptr<Task> make_lsd(const BuildContext& context) {
  return std::make_shared<LagrangianSelfDistillation>(context);
}

}  // namespace flowmap::distill
