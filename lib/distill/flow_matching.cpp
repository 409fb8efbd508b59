// Flow matching (Lipman et al. 2023; Liu et al. 2023): regress the velocity x1 - b n, noise
// and data independent or paired by optimal transport (Tong et al. 2023; Pooladian et al.).
#include <ATen/ATen.h>

#include "distill/regression_losses.h"
#include "distill/method.h"
#include "distill/ot_coupling.h"
#include "flowmap/interpolant.h"
#include "flowmap/time_sampling.h"

namespace flowmap::distill {
namespace {

// Loss: mean over dimensions of |v_t(x_t) - (x1 - b n)|^2, mean over the batch.
class FlowMatching : public Task {
 public:
  explicit FlowMatching(const BuildContext& context) {
    const Config options = context.config.child("method");
    times_ = read_time_sampler(options.child("times"));
    label_dropout_ = options.number("label_dropout", 0, 0, 1);
    ot_group_ = read_ot_group(options);
    players_.push_back(make_student(context));
  }

  std::vector<Player>& players() override { return players_; }

  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    Model& model = *players_[0].model;
    const at::Tensor t = times_.sample(step.draw, "time").to(batch.x.device());
    at::Tensor noise = step.draw.normal("noise", batch.x.sizes().slice(1))
                           .to(batch.x.device());
    if (ot_group_ > 0)
      noise = noise.index_select(
          0, ot_pairing_in_groups(batch.x, noise, ot_group_, step.first_row)
                 .to(noise.device()));
    const Interpolated point = interpolate(batch.x, noise, t, model.info().base_std,
                                           model.info().interpolant);
    Condition condition{batch.labels, batch.augment_labels, {}};
    if (label_dropout_ > 0 && batch.labels.defined()) {
      const at::Tensor keep = step.draw.uniform("label_dropout", {}).ge(label_dropout_);
      condition.class_labels = batch.labels * keep.to(batch.labels).unsqueeze(1);
    }
    Context context = step.training_context(step.draw);
    const at::Tensor raw =
        diagonal_loss(model, point.x, t, point.target, condition, context) /
        static_cast<double>(batch.x[0].numel());
    return {raw.sum() / static_cast<double>(step.global_batch),
            {{"Loss/loss", raw.detach()}}};
  }

  std::string snapshot_info() const override {
    return R"({"method": "flow_matching", "default_sampler": "euler", )"
           R"("default_steps": 32})";
  }

 private:
  TimeSampler times_;
  double label_dropout_ = 0;
  int64_t ot_group_ = 0;
  std::vector<Player> players_;
};

}  // namespace

std::shared_ptr<Task> make_flow_matching(const BuildContext& context) {
  return std::make_shared<FlowMatching>(context);
}

}  // namespace flowmap::distill
