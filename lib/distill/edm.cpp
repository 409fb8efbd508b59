// EDM's denoising loss (Karras et al. 2022, table 1, last column).
#include <ATen/ATen.h>

#include "distill/flow_map_losses.h"
#include "distill/method.h"
#include "distill/noise_levels.h"
#include "flowmap/base/error.h"

namespace flowmap::distill {
namespace {

// Loss: denoising_loss (a sum over dimensions), mean over the batch; ln sigma ~
// N(P_mean, P_std^2).
class EdmLoss : public Task {
 public:
  explicit EdmLoss(const BuildContext& context) {
    const Config options = context.config.child("method");
    levels_ = read_noise_levels(options, -1.2, 1.2);
    const std::string preconditioning =
        context.config.child("preconditioning").string("type");
    FM_CHECK_USAGE(preconditioning == "edm",
                   context.config.where("preconditioning.type"), ": method edm is EDM's ",
                   "loss under EDM's preconditioning; '", preconditioning,
                   "' has a loss of its own, which no method here trains");
    players_.push_back(make_student(context));
  }

  std::vector<Player>& players() override { return players_; }

  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    Model& model = *players_[0].model;
    const auto [sigma, noise] = levels_.draw(step.draw, batch.x);
    Context context = step.training_context(step.draw);
    const Condition condition{batch.labels, {}, {}};
    const at::Tensor raw =
        denoising_loss(model, batch.x, noise, sigma, condition, context);
    return {raw.sum() / static_cast<double>(step.global_batch),
            {{"Loss/loss", raw.detach() / static_cast<double>(batch.x[0].numel())}}};
  }

  std::string snapshot_info() const override {
    return R"({"method": "edm", "default_sampler": "heun", "default_steps": 18})";
  }

 private:
  NoiseLevels levels_;
  std::vector<Player> players_;
};

}  // namespace

std::shared_ptr<Task> make_edm(const BuildContext& context) {
  return std::make_shared<EdmLoss>(context);
}

}  // namespace flowmap::distill
