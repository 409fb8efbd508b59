// Reflow: flow matching along the pairs of a teacher, which straightens the paths (Liu et al.
// 2023, arXiv 2209.03003; the improvements of Lee et al. 2024, arXiv 2405.20320), and with
// fresh noise that is annealed away (Zhu et al. 2024, SlimFlow, arXiv 2407.12718).
#include <ATen/ATen.h>

#include "distill/reflow/annealing.h"
#include "distill/reflow/losses.h"
#include "distill/reflow/pair_task.h"
#include "flowmap/interpolant.h"
#include "flowmap/time_sampling.h"

namespace flowmap::distill {
namespace {

// Loss: mean over dimensions of (v_t(x_t) - (y - b n))^2, or another; x_t between the pair's
// noise, annealed, and its sample.
class Reflow : public PairTask {
 public:
  Reflow(const BuildContext& context, const char* name, bool annealing)
      : PairTask(context, name, 8) {
    const Config options = context.config.child("method");
    times_ = read_time_sampler(options.child("times"));
    if (annealing)
      annealing_ = read_annealing(options);
    else
      loss_ = read_reflow_loss(options, context.data.sample_shape);
  }

  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    const double beta = annealing_.beta(step.clock.images_seen);
    at::Tensor noise = batch.noise;
    // A flip of the pair before this one is as good as one after it: fresh noise has no side.
    if (beta > 0)
      noise = annealed_noise(
          noise, step.draw.normal("fresh", noise.sizes().slice(1)).to(noise.device()), beta);
    const at::Tensor t =
        times_.sample(step.draw, "time", step.first_row).to(batch.x.device());
    const Interpolated at_t =
        interpolate(batch.x, noise, t, student().info().base_std);
    const Condition condition = condition_of(batch, step);
    Context context = step.training_context(step.draw);
    const at::Tensor velocity =
        student().velocity(at_t.x, t, condition, context).value;
    LossResult result = finish(loss_(at_t.x, velocity, at_t.target, batch.x, t), batch,
                               condition, step);
    if (annealing_.rule != AnnealingSchedule::Rule::constant)
      result.stats.emplace_back("Annealing/beta",
                                at::full({batch.x.size(0)}, beta, at::kDouble));
    if (loss_.rule != ReflowLoss::Rule::l2)
      result.stats.emplace_back("Loss/l2", mean_square(velocity, at_t.target).detach());
    return result;
  }

 private:
  TimeSampler times_;
  AnnealingSchedule annealing_;
  ReflowLoss loss_;
};

}  // namespace

std::shared_ptr<Task> make_reflow(const BuildContext& context) {
  return std::make_shared<Reflow>(context, "reflow", false);
}

std::shared_ptr<Task> make_annealing_reflow(const BuildContext& context) {
  return std::make_shared<Reflow>(context, "annealing_reflow", true);
}

}  // namespace flowmap::distill
