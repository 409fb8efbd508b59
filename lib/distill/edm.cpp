// Training of denoisers as Karras et al. 2022 (arXiv 2206.00364, table 1) have it.
#include "distill/edm.h"

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <string>

#include "distill/regression_losses.h"
#include "distill/method.h"
#include "distill/noise_levels.h"
#include "flowmap/base/error.h"
#include "flowmap/interpolant.h"

namespace flowmap::distill {

at::Tensor vp_noise_levels(const at::Tensor& u, double beta_d, double beta_min,
                           double epsilon_t) {
  const at::Tensor t = u * (epsilon_t - 1) + 1;
  return (t.square() * (0.5 * beta_d) + t * beta_min).expm1().sqrt();
}

at::Tensor ve_noise_levels(const at::Tensor& u, double sigma_min, double sigma_max) {
  return (u * std::log(sigma_max / sigma_min)).exp() * sigma_min;
}

at::Tensor score_matching_loss(Model& student, const at::Tensor& x1,
                               const at::Tensor& noise, const at::Tensor& sigma,
                               const Condition& condition, Context& context) {
  const at::Tensor x = x1 + column_like(sigma, x1) * noise;
  const at::Tensor denoised = student.denoise(x, sigma, condition, context).value;
  return (denoised - x1).flatten(1).square().sum(1) / sigma.square();
}

namespace {

// Loss by the preconditioning: edm has denoising_loss at ln sigma ~ N(P_mean, P_std^2); vp
// and ve have score_matching_loss at their own noise levels. Sums over dimensions, mean
// over the batch.
class EdmLoss : public Task {
 public:
  explicit EdmLoss(const BuildContext& context) {
    const Config preconditioning = context.config.child("preconditioning");
    const std::string type = preconditioning.string("type");
    FM_CHECK_USAGE(type == "edm" || type == "vp" || type == "ve",
                   context.config.where("preconditioning.type"), ": method edm trains the ",
                   "preconditionings edm, vp and ve; '", type,
                   "' has a loss of its own, which it does not know");
    players_.push_back(make_student(context));
    const ModelInfo info = players_[0].model->info();
    if (type == "edm") {
      loss_ = denoising_loss;
      const NoiseLevels levels =
          read_noise_levels(context.config.child("method"), -1.2, 1.2);
      draw_ = [levels](const Draw& rows, const at::Tensor& x) {
        return levels.draw(rows, x);
      };
      return;
    }
    loss_ = score_matching_loss;
    const Levels sigma_of =
        type == "vp" ? vp_levels(preconditioning) : ve_levels(info);
    draw_ = [sigma_of](const Draw& rows, const at::Tensor& x) -> NoiseLevels::Sample {
      return {sigma_of(rows.uniform("sigma", {})).to(x.device()),
              rows.normal("noise", x.sizes().slice(1)).to(x.device())};
    };
  }

  std::vector<Player>& players() override { return players_; }

  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    Model& model = *players_[0].model;
    const auto [sigma, noise] = draw_(step.draw, batch.x);
    Context context = step.training_context(step.draw);
    const Condition condition{batch.labels, batch.augment_labels, {}};
    const at::Tensor raw = loss_(model, batch.x, noise, sigma, condition, context);
    return {raw.sum() / static_cast<double>(step.global_batch),
            {{"Loss/loss", raw.detach() / static_cast<double>(batch.x[0].numel())}}};
  }

  std::string snapshot_info() const override {
    return R"({"method": "edm", "default_sampler": "heun", "default_steps": 18})";
  }

 private:
  using Levels = std::function<at::Tensor(const at::Tensor& u)>;

  // The preconditioning has the same options and defaults.
  static Levels vp_levels(const Config& options) {
    const double beta_d = options.number("beta_d", 19.9);
    const double beta_min = options.number("beta_min", 0.1);
    const double epsilon_t = options.number("epsilon_t", 1e-5);
    return [=](const at::Tensor& u) {
      return vp_noise_levels(u, beta_d, beta_min, epsilon_t);
    };
  }
  static Levels ve_levels(const ModelInfo& info) {
    return [low = info.sigma_min, high = info.sigma_max](const at::Tensor& u) {
      return ve_noise_levels(u, low, high);
    };
  }

  decltype(&score_matching_loss) loss_ = nullptr;
  std::function<NoiseLevels::Sample(const Draw&, const at::Tensor&)> draw_;
  std::vector<Player> players_;
};

}  // namespace

std::shared_ptr<Task> make_edm(const BuildContext& context) {
  return std::make_shared<EdmLoss>(context);
}

}  // namespace flowmap::distill
