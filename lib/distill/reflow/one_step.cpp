// One-step generators from the pairs of a teacher: distillation of a rectified flow (Liu et
// al. 2023, arXiv 2209.03003, section 2.2) and SlimFlow's flow-guided distillation (Zhu et
// al. 2024, arXiv 2407.12718, section 3.2).
#include <ATen/ATen.h>

#include <string>

#include "distill/reflow/losses.h"
#include "distill/reflow/pair_task.h"
#include "flowmap/interpolant.h"
#include "flowmap/time_sampling.h"

namespace flowmap::distill {
namespace {

// Direct term: M(x0 + v_eps(x0), y) over the pairs, x0 = b n; with `leak` the network's input
// is the interpolation at eps, which holds eps of the sample, as in the peers' code.
class OneStepDistillation : public PairTask {
 public:
  explicit OneStepDistillation(const BuildContext& context,
                               const char* name = "one_step_distillation")
      : PairTask(context, name, 1) {
    const Config options = context.config.child("method");
    // Samplers here ask the network at t = 0; the peers' ask theirs at 1e-3.
    eps_ = options.number("eps", 0, 0, 0.5);
    leak_ = options.boolean("leak", true);
    loss_ = read_end_loss(options, context.data.sample_shape, "l2");
  }

  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    const Condition condition = condition_of(batch, step);
    return finish(direct(batch, condition, step), batch, condition, step);
  }

 protected:
  at::Tensor direct(const Batch& batch, const Condition& condition,
                    const StepContext& step) {
    const at::Tensor x0 = start(batch.noise);
    const at::Tensor x = leak_ && eps_ > 0 ? x0 + eps_ * (batch.x - x0) : x0;
    Context context = step.training_context(step.draw);
    return loss_(x0, student().velocity(x, first_time(x0), condition, context).value,
                 batch.x);
  }
  at::Tensor first_time(const at::Tensor& x) const {
    return at::full({x.size(0)}, eps_, x.options());
  }
  const EndLoss& end_loss() const { return loss_; }

 private:
  double eps_ = 0;
  bool leak_ = true;
  EndLoss loss_;
};

// Two-step term: M(x~0 + v_eps(x~0), where two steps lead) from fresh noise x~0, the second
// step the frozen guide's, the first the student's own or the guide's.
class FlowGuidedDistillation : public OneStepDistillation {
 public:
  explicit FlowGuidedDistillation(const BuildContext& context)
      : OneStepDistillation(context, "flow_guided_distillation"),
        guide_(add_teacher(context)) {
    const Config options = context.config.child("method");
    Config times = options.child("guide_times");
    if (!times.has("type")) {
      if (!times.has("low")) times.set_json("low", "0.2", "method flow_guided_distillation");
      if (!times.has("high")) times.set_json("high", "0.8", "method flow_guided_distillation");
    }
    times_ = read_time_sampler(times);
    direct_weight_ = options.number("direct_weight", 1, 0, 1e6);
    guide_weight_ = options.number("guide_weight", 1, 0, 1e6);
    const std::vector<std::string> who = {"student", "guide"};
    guide_first_ = options.choice("first_step", who, "student") == "guide";
  }

  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    const Condition condition = condition_of(batch, step);
    const at::Tensor near = direct(batch, condition, step);
    const at::Tensor far = guided(batch, condition, step);
    LossResult result = finish(direct_weight_ * near + guide_weight_ * far, batch,
                               condition, step);
    result.stats.emplace_back("Loss/direct", near.detach());
    result.stats.emplace_back("Loss/two_step", far.detach());
    return result;
  }

 private:
  at::Tensor guided(const Batch& batch, const Condition& condition,
                    const StepContext& step) {
    const Draw draw = step.draw.fork("guided");
    const at::Tensor x0 =
        start(draw.normal("noise", batch.x.sizes().slice(1)).to(batch.x.device()));
    const at::Tensor t = times_.sample(draw, "time", step.first_row).to(x0.device());
    Context context = step.training_context(draw), plain;
    const at::Tensor velocity =
        student().velocity(x0, first_time(x0), condition, context).value;
    at::Tensor first = velocity.detach();
    if (guide_first_) {
      const at::NoGradGuard no_grad;
      first = guide_.velocity(x0, first_time(x0), condition, {}, plain);
    }
    return end_loss()(x0, velocity,
                      two_step_target(guide_, x0, first, t, condition, plain).end);
  }

  Teacher guide_;
  TimeSampler times_;
  double direct_weight_ = 1, guide_weight_ = 1;
  bool guide_first_ = false;
};

}  // namespace

std::shared_ptr<Task> make_one_step_distillation(const BuildContext& context) {
  return std::make_shared<OneStepDistillation>(context);
}

std::shared_ptr<Task> make_flow_guided_distillation(const BuildContext& context) {
  return std::make_shared<FlowGuidedDistillation>(context);
}

}  // namespace flowmap::distill
