// Denoisers, and the continuous rules of Karras et al. 2022 (arXiv 2206.00364, table 1).
#include <ATen/ATen.h>

#include <cmath>

#include "flowmap/base/error.h"
#include "flowmap/denoiser.h"
#include "flowmap/nn/init.h"
#include "flowmap/ops.h"
#include "flowmap/preconditioning.h"

namespace flowmap {

namespace {

Dual reciprocal_of(const Dual& a) { return ops::div(Dual(at::ones_like(a.value)), a); }

class DenoiserModel : public NetworkModel {
 public:
  DenoiserModel(std::shared_ptr<Network> network, DenoiserRule rule)
      : NetworkModel(std::move(network)), rule_(std::move(rule)) {
    // The rule's own tensor: the buffer's conversions reach both.
    if (!rule_.levels_buffer.empty()) register_buffer(rule_.levels_buffer, rule_.levels);
  }

  ModelInfo info() const override { return rule_.about; }

  Dual denoise(const Dual& x_in, const Dual& sigma, const Condition& c,
               Context& ctx) override {
    const Dual x = in_own_type(x_in);
    const int64_t dims = x.value.dim();
    const DenoiserScalings s = rule_.scalings(times_in_own_type(sigma, x.value.size(0)));
    const auto times = [&](const Dual& a, const Dual& factor) {
      return factor.defined() ? a * ops::column(factor, dims) : a;
    };
    const Dual f = sample_channels(raw(times(x, s.c_in), s.c_noise, {}, c, ctx),
                                   rule_.about.sample_shape[0]);
    return times(x, s.c_skip) + times(f, s.c_out);
  }

  at::Tensor round_sigma(const at::Tensor& sigma) const override {
    if (!rule_.levels.defined()) return sigma;
    const at::Tensor levels = rule_.levels.to(sigma.options());
    return levels.index_select(0, nearest_level(sigma, levels).flatten())
        .view(sigma.sizes());
  }

 private:
  DenoiserRule rule_;
};

std::shared_ptr<Model> denoiser_of(const Config& spec, DenoiserRule rule) {
  NetworkShape shape = read_network_shape(spec, 1);
  if (rule.out_factor != 1) shape.out_channels = shape.sample[0] * rule.out_factor;
  return make_denoiser(build_network(spec.child("network"), shape), std::move(rule), spec);
}

}  // namespace

std::shared_ptr<Model> make_denoiser(std::shared_ptr<Network> network, DenoiserRule rule,
                                     const Config& spec) {
  const Config options = spec.child("preconditioning");
  const NetworkShape shape = read_network_shape(spec, 1);
  ModelInfo& about = rule.about;
  about.kind = ModelKind::denoiser;
  about.sample_shape = shape.sample;
  about.label_dim = shape.label_dim;
  about.base_std = options.number("base_std", 1, 1e-6, 1e6);
  about.init_sigma = options.number("init_sigma", 0, 0, 1e6);
  FM_CHECK_USAGE(about.sigma_min < about.sigma_max, "preconditioning.sigma_min=",
                 about.sigma_min, " must be below sigma_max=", about.sigma_max);
  about.t_min = 1 / (1 + about.sigma_max / about.base_std);
  about.t_max = 1 / (1 + about.sigma_min / about.base_std);
  return std::make_shared<DenoiserModel>(std::move(network), std::move(rule));
}

DenoiserRule edm_rule(const Config& options) {
  DenoiserRule rule;
  rule.about.sigma_data = options.number("sigma_data", 0.5, 1e-6, 1e6);
  rule.about.sigma_min = options.number("sigma_min", 0.002, 1e-9, 1e9);
  rule.about.sigma_max = options.number("sigma_max", 80, 1e-9, 1e9);
  const double sd = rule.about.sigma_data;
  rule.scalings = [sd](const Dual& sigma) {
    const Dual total = ops::add_scalar(sigma * sigma, sd * sd);  // E[x^2] per element
    DenoiserScalings s;
    s.c_in = reciprocal_of(ops::sqrt(total));
    s.c_skip = ops::scale(reciprocal_of(total), sd * sd);
    s.c_out = ops::scale(sigma * s.c_in, sd);
    s.c_noise = ops::scale(ops::log(sigma), 0.25);
    return s;
  };
  return rule;
}

DenoiserRule vp_rule(const Config& options) {
  const double beta_d = options.number("beta_d", 19.9, 1e-6, 1e6);
  const double beta_min = options.number("beta_min", 0.1, 0, 1e6);
  const double levels = options.number("M", 1000, 2, 1e9);
  const double epsilon_t = options.number("epsilon_t", 1e-5, 1e-12, 1);
  const auto sigma_at = [&](double t) {
    return std::sqrt(std::expm1(0.5 * beta_d * t * t + beta_min * t));
  };
  DenoiserRule rule;
  rule.about.sigma_min = sigma_at(epsilon_t);
  rule.about.sigma_max = sigma_at(1);
  rule.scalings = [=](const Dual& sigma) {
    const Dual total = ops::add_scalar(sigma * sigma, 1);
    // The time at which variance-preserving diffusion has this sigma.
    const Dual root = ops::sqrt(
        ops::add_scalar(ops::scale(ops::log(total), 2 * beta_d), beta_min * beta_min));
    const Dual vp_time = ops::scale(ops::add_scalar(root, -beta_min), 1 / beta_d);
    DenoiserScalings s;
    s.c_out = ops::neg(sigma);
    s.c_in = reciprocal_of(ops::sqrt(total));
    s.c_noise = ops::scale(vp_time, levels - 1);
    return s;
  };
  return rule;
}

DenoiserRule ve_rule(const Config& options) {
  DenoiserRule rule;
  rule.about.sigma_min = options.number("sigma_min", 0.02, 1e-9, 1e9);
  rule.about.sigma_max = options.number("sigma_max", 100, 1e-9, 1e9);
  rule.scalings = [](const Dual& sigma) {
    DenoiserScalings s;
    s.c_out = sigma;
    s.c_noise = ops::log(ops::scale(sigma, 0.5));
    return s;
  };
  return rule;
}

std::shared_ptr<Model> make_edm_model(const Config& spec) {
  return denoiser_of(spec, edm_rule(spec.child("preconditioning")));
}
std::shared_ptr<Model> make_vp_model(const Config& spec) {
  return denoiser_of(spec, vp_rule(spec.child("preconditioning")));
}
std::shared_ptr<Model> make_ve_model(const Config& spec) {
  return denoiser_of(spec, ve_rule(spec.child("preconditioning")));
}
std::shared_ptr<Model> make_iddpm_model(const Config& spec) {
  return denoiser_of(spec, iddpm_rule(spec.child("preconditioning")));
}
std::shared_ptr<Model> make_ddpm_model(const Config& spec) {
  return denoiser_of(spec, ddpm_rule(spec.child("preconditioning")));
}

}  // namespace flowmap
