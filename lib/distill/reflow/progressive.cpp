// Progressive distillation (Salimans and Ho 2022, arXiv 2202.00512): in each round a student
// learns to do in one step what its teacher does in two. A network of one time, right only on
// the grid of its round; the member of the flow-map family that keeps all grids is psd.
#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "distill/ladder.h"
#include "distill/reflow/losses.h"
#include "distill/reflow/pair_task.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/interpolant.h"
#include "flowmap/train/options.h"

namespace flowmap::distill {
namespace {

int64_t halvings(int64_t from, int64_t to) {
  int64_t rounds = 0;
  for (; from > to && from % 2 == 0; from /= 2) ++rounds;
  return from == to ? rounds : -1;
}

// Loss: w mean over dimensions of (v_s(x_s) - slope of the teacher's two steps)^2, s on the
// student's grid. Their weight max(snr, 1) on the data's error is max(s, 1 - s)^2 on the
// velocity's, for x^ = x_s + (1 - s) v.
class ProgressiveDistillation : public Task {
 public:
  explicit ProgressiveDistillation(const BuildContext& context) {
    const Config options = context.config.child("method");
    players_.push_back(make_student(context));
    const ModelInfo info = players_[0].model->info();
    require_linear_velocity(info, "progressive_distillation");
    players_.push_back(read_frozen_teacher(context, "progressive_distillation", info));
    start_steps_ = options.integer("start_steps", 64, 2, 1 << 20);
    end_steps_ = options.integer("end_steps", 1, 1, 1 << 19);
    const int64_t rounds = halvings(start_steps_, end_steps_);
    FM_CHECK_USAGE(rounds > 0, options.where("start_steps"), ": method.start_steps = ",
                   start_steps_, " does not come to method.end_steps = ", end_steps_,
                   " by halving");
    const std::vector<std::string> weights = {"truncated_snr", "none"};
    truncated_ = options.choice("weight", weights, "truncated_snr") == "truncated_snr";
    ladder_ = Ladder(rounds, read_duration(context.config.child("trainer")));
  }

  std::vector<Player>& players() override { return players_; }

  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    const int64_t steps = start_steps_ >> (ladder_.round(step.clock) + 1);
    const double h = 1 / static_cast<double>(steps);
    Model* rung = ladder_.rung(players_[0], step);
    const Teacher teacher(rung ? *rung : *players_[1].model);
    const at::Tensor s =
        (step.draw.integer("knot", {}, steps).to(at::kFloat) * h).to(batch.x.device());
    const at::Tensor noise =
        step.draw.normal("noise", batch.x.sizes().slice(1)).to(batch.x.device());
    const at::Tensor x =
        interpolate(batch.x, noise, s, players_[0].model->info().base_std).x;
    const Condition condition{batch.labels, batch.augment_labels, {}};
    Context context = step.training_context(step.draw), plain;
    const at::Tensor target = halving_target(teacher, x, s, h, condition, plain);
    at::Tensor raw = mean_square(
        players_[0].model->velocity(x, s, condition, context).value, target);
    if (truncated_) raw = raw * at::maximum(s, 1 - s).square();
    return {raw.sum() / static_cast<double>(step.global_batch),
            {{"Loss/loss", raw.detach()},
             {"Progress/steps", at::full({s.size(0)}, static_cast<double>(steps))}}};
  }

  std::map<std::string, at::Tensor> state() const override { return ladder_.state(); }
  void load_state(const std::map<std::string, at::Tensor>& state) override {
    ladder_.load_state(players_[0], state);
  }
  std::string snapshot_info() const override {
    return format(R"({"method": "progressive_distillation", "default_sampler": "euler", )"
                  R"("default_steps": %lld})", static_cast<long long>(end_steps_));
  }

 private:
  int64_t start_steps_ = 0, end_steps_ = 0;
  bool truncated_ = true;
  Ladder ladder_;
  std::vector<Player> players_;
};

}  // namespace

std::shared_ptr<Task> make_progressive_distillation(const BuildContext& context) {
  return std::make_shared<ProgressiveDistillation>(context);
}

}  // namespace flowmap::distill
