#include "flowmap/train/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>

#include "flowmap/base/error.h"

namespace flowmap {

OptimizerOptions read_optimizer_options(const Config& config) {
  OptimizerOptions options;
  const std::vector<std::string> rules = {"adam", "adamw", "radam"};
  const std::string rule = config.choice("type", rules, "adam");
  options.rule = rule == "adam"    ? OptimizerRule::adam
                 : rule == "adamw" ? OptimizerRule::adamw
                                   : OptimizerRule::radam;
  options.beta1 = config.number("beta1", 0.9, 0, 0.9999999);
  options.beta2 = config.number("beta2", 0.999, 0, 0.9999999);
  options.eps = config.number("eps", 1e-8, 0, 1);
  options.weight_decay =
      config.number("weight_decay", rule == "adamw" ? 0.01 : 0.0, 0, 1);
  return options;
}

Optimizer::Optimizer(const OptimizerOptions& options, std::vector<NamedTensor> parameters)
    : options_(options), parameters_(std::move(parameters)) {
  for (const NamedTensor& p : parameters_) {
    exp_avg_.push_back(at::zeros_like(p.tensor));
    exp_avg_sq_.push_back(at::zeros_like(p.tensor));
  }
}

double radam_rectification(int64_t k, double beta2) {
  const double rho_inf = 2 / (1 - beta2) - 1;
  const double power = std::pow(beta2, static_cast<double>(k));
  const double rho = rho_inf - 2 * static_cast<double>(k) * power / (1 - power);
  if (rho <= 5) return 0;
  return std::sqrt((rho - 4) * (rho - 2) * rho_inf /
                   ((rho_inf - 4) * (rho_inf - 2) * rho));
}

void Optimizer::step(double lr) {
  const at::NoGradGuard no_grad;
  ++steps_;
  const double k = static_cast<double>(steps_);
  const double correction1 = 1 - std::pow(options_.beta1, k);
  const double correction2 = 1 - std::pow(options_.beta2, k);
  const double rectification = radam_rectification(steps_, options_.beta2);
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    at::Tensor& p = parameters_[i].tensor;
    at::Tensor g = p.grad();
    if (!g.defined()) continue;
    at::Tensor& m = exp_avg_[i];
    at::Tensor& v = exp_avg_sq_[i];
    if (options_.weight_decay != 0) {
      if (options_.rule == OptimizerRule::adamw)
        p.mul_(1 - lr * options_.weight_decay);
      else
        g = g.add(p, options_.weight_decay);
    }
    m.lerp_(g, 1 - options_.beta1);
    v.mul_(options_.beta2).addcmul_(g, g, 1 - options_.beta2);
    if (options_.rule == OptimizerRule::radam) {
      if (rectification > 0)
        p.addcdiv_(m, v.sqrt().add_(options_.eps),
                   -lr * rectification * std::sqrt(correction2) / correction1);
      else
        p.add_(m, -lr / correction1);
    } else {
      const at::Tensor denominator =
          v.sqrt().div_(std::sqrt(correction2)).add_(options_.eps);
      p.addcdiv_(m, denominator, -lr / correction1);
    }
  }
}

void Optimizer::zero_grad() {
  for (NamedTensor& p : parameters_) p.tensor.mutable_grad().reset();
}

std::map<std::string, at::Tensor> Optimizer::state() const {
  std::map<std::string, at::Tensor> state;
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    state["exp_avg/" + parameters_[i].name] = exp_avg_[i];
    state["exp_avg_sq/" + parameters_[i].name] = exp_avg_sq_[i];
  }
  state["step"] = at::full({1}, steps_, at::kLong);
  return state;
}

void Optimizer::load_state(const std::map<std::string, at::Tensor>& state) {
  const at::NoGradGuard no_grad;
  const auto fetch = [&state](const std::string& name, const at::Tensor& like) {
    const auto found = state.find(name);
    FM_CHECK(found != state.end(), "optimizer state lacks '", name, "'");
    FM_CHECK(found->second.sizes() == like.sizes(), "optimizer state '", name,
             "' has another shape than the parameter");
    return found->second;
  };
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    exp_avg_[i].copy_(fetch("exp_avg/" + parameters_[i].name, exp_avg_[i]));
    exp_avg_sq_[i].copy_(fetch("exp_avg_sq/" + parameters_[i].name, exp_avg_sq_[i]));
  }
  steps_ = fetch("step", at::zeros({1}, at::kLong)).item<int64_t>();
}

at::Tensor gradient_norm(const std::vector<NamedTensor>& parameters) {
  const at::NoGradGuard no_grad;
  at::Tensor total = at::zeros({}, at::kDouble);
  for (const NamedTensor& p : parameters) {
    const at::Tensor& g = p.tensor.grad();
    if (!g.defined()) continue;
    // Float32 sums of squares overflow long before a gradient is infinite.
    total = total.to(g.device()) +
            at::linalg_vector_norm(g, 2, {}, false, at::kDouble).square();
  }
  return total.sqrt();
}

void clip_gradients(const std::vector<NamedTensor>& parameters, double norm,
                    double limit) {
  const double factor = limit / (norm + 1e-6);
  if (!(factor < 1)) return;
  const at::NoGradGuard no_grad;
  for (const NamedTensor& p : parameters)
    if (p.tensor.grad().defined()) p.tensor.mutable_grad().mul_(factor);
}

}  // namespace flowmap
