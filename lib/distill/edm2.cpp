// EDM2's training (Karras et al. 2024, arXiv 2312.02696).
#include "distill/edm2.h"

#include <ATen/ATen.h>

#include "distill/regression_losses.h"
#include "distill/method.h"
#include "distill/noise_levels.h"
#include "flowmap/base/error.h"

namespace flowmap::distill {

UncertainLoss uncertain_denoising_loss(Model& student, const at::Tensor& x1,
                                       const at::Tensor& noise, const at::Tensor& sigma,
                                       const Condition& condition, Context& context) {
  const at::Tensor error =
      denoising_loss(student, x1, noise, sigma, condition, context);
  const at::Tensor u = student.log_variance(sigma).to(error.scalar_type());
  const double dimensions = static_cast<double>(x1[0].numel());
  return {error * (-u).exp() + u * dimensions, error.detach()};
}

namespace {

// Loss: uncertain_denoising_loss (a sum over dimensions), mean over the batch; ln sigma ~
// N(P_mean, P_std^2). Forced weight normalisation is the trainer's, through
// Model::project.
class Edm2Loss : public Task {
 public:
  explicit Edm2Loss(const BuildContext& context) {
    const Config options = context.config.child("method");
    levels_ = read_noise_levels(options, -0.4, 1);
    players_.push_back(make_student(context));
    FM_CHECK_USAGE(players_[0].model->has_log_variance(),
                   context.config.where("preconditioning.type"),
                   ": method edm2 trains a denoiser with its uncertainty; set ",
                   "preconditioning.type = edm2");
  }

  std::vector<Player>& players() override { return players_; }

  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    const auto [sigma, noise] = levels_.draw(step.draw, batch.x);
    Context context = step.training_context(step.draw);
    const Condition condition{batch.labels, batch.augment_labels, {}};
    const UncertainLoss raw = uncertain_denoising_loss(
        *players_[0].model, batch.x, noise, sigma, condition, context);
    const double dimensions = static_cast<double>(batch.x[0].numel());
    return {raw.loss.sum() / static_cast<double>(step.global_batch),
            {{"Loss/loss", raw.loss.detach() / dimensions},
             {"Loss/error", raw.error / dimensions}}};
  }

  std::string snapshot_info() const override {
    return R"({"method": "edm2", "default_sampler": "heun", "default_steps": 32})";
  }

 private:
  NoiseLevels levels_;
  std::vector<Player> players_;
};

}  // namespace

std::shared_ptr<Task> make_edm2(const BuildContext& context) {
  return std::make_shared<Edm2Loss>(context);
}

}  // namespace flowmap::distill
