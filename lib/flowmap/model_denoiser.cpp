// Denoisers: D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), the scalings of Karras et
// al. 2022 (arXiv 2206.00364, table 1).
#include <ATen/ATen.h>

#include <cmath>
#include <functional>

#include "flowmap/base/error.h"
#include "flowmap/nn/init.h"
#include "flowmap/ops.h"
#include "flowmap/preconditioning.h"

namespace flowmap {

namespace {

// Functions of sigma, [B]. An undefined c_skip or c_in is 1.
struct DenoiserScalings {
  Dual c_skip, c_out, c_in, c_noise;
};
using ScalingRule = std::function<DenoiserScalings(const Dual& sigma)>;

Dual reciprocal_of(const Dual& a) { return ops::div(Dual(at::ones_like(a.value)), a); }

class DenoiserModel : public NetworkModel {
 public:
  DenoiserModel(std::shared_ptr<Network> network, ModelInfo about, ScalingRule rule)
      : NetworkModel(std::move(network)), info_(std::move(about)), rule_(std::move(rule)) {}

  ModelInfo info() const override { return info_; }

  Dual denoise(const Dual& x_in, const Dual& sigma, const Condition& c,
               Context& ctx) override {
    const Dual x = in_own_type(x_in);
    const int64_t dims = x.value.dim();
    const DenoiserScalings s = rule_(times_in_own_type(sigma, x.value.size(0)));
    const auto times = [&](const Dual& a, const Dual& factor) {
      return factor.defined() ? a * ops::column(factor, dims) : a;
    };
    const Dual f = raw(times(x, s.c_in), s.c_noise, {}, c, ctx);
    return times(x, s.c_skip) + times(f, s.c_out);
  }

 private:
  ModelInfo info_;
  ScalingRule rule_;
};

// The options all denoisers share; sigma_min and sigma_max are set already.
std::shared_ptr<Model> finish_denoiser(const Config& spec, ModelInfo about,
                                       ScalingRule rule) {
  const Config options = spec.child("preconditioning");
  const NetworkShape shape = read_network_shape(spec, 1);
  about.kind = ModelKind::denoiser;
  about.sample_shape = shape.sample;
  about.label_dim = shape.label_dim;
  about.base_std = options.number("base_std", 1, 1e-6, 1e6);
  about.init_sigma = options.number("init_sigma", 0, 0, 1e6);
  FM_CHECK_USAGE(about.sigma_min < about.sigma_max, "preconditioning.sigma_min=",
                 about.sigma_min, " must be below sigma_max=", about.sigma_max);
  about.t_min = 1 / (1 + about.sigma_max / about.base_std);
  about.t_max = 1 / (1 + about.sigma_min / about.base_std);
  return std::make_shared<DenoiserModel>(build_network(spec.child("network"), shape),
                                         about, std::move(rule));
}

}  // namespace

std::shared_ptr<Model> make_edm_model(const Config& spec) {
  const Config options = spec.child("preconditioning");
  ModelInfo about;
  about.sigma_data = options.number("sigma_data", 0.5, 1e-6, 1e6);
  about.sigma_min = options.number("sigma_min", 0.002, 1e-9, 1e9);
  about.sigma_max = options.number("sigma_max", 80, 1e-9, 1e9);
  const double sd = about.sigma_data;
  return finish_denoiser(spec, about, [sd](const Dual& sigma) {
    const Dual total = ops::add_scalar(sigma * sigma, sd * sd);  // E[x^2] per element
    DenoiserScalings s;
    s.c_in = reciprocal_of(ops::sqrt(total));
    s.c_skip = ops::scale(reciprocal_of(total), sd * sd);
    s.c_out = ops::scale(sigma * s.c_in, sd);
    s.c_noise = ops::scale(ops::log(sigma), 0.25);
    return s;
  });
}

std::shared_ptr<Model> make_vp_model(const Config& spec) {
  const Config options = spec.child("preconditioning");
  const double beta_d = options.number("beta_d", 19.9, 1e-6, 1e6);
  const double beta_min = options.number("beta_min", 0.1, 0, 1e6);
  const double levels = options.number("M", 1000, 2, 1e9);
  const double epsilon_t = options.number("epsilon_t", 1e-5, 1e-12, 1);
  const auto sigma_at = [&](double t) {
    return std::sqrt(std::expm1(0.5 * beta_d * t * t + beta_min * t));
  };
  ModelInfo about;
  about.sigma_min = sigma_at(epsilon_t);
  about.sigma_max = sigma_at(1);
  return finish_denoiser(spec, about, [=](const Dual& sigma) {
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
  });
}

std::shared_ptr<Model> make_ve_model(const Config& spec) {
  const Config options = spec.child("preconditioning");
  ModelInfo about;
  about.sigma_min = options.number("sigma_min", 0.02, 1e-9, 1e9);
  about.sigma_max = options.number("sigma_max", 100, 1e-9, 1e9);
  return finish_denoiser(spec, about, [](const Dual& sigma) {
    DenoiserScalings s;
    s.c_out = sigma;
    s.c_noise = ops::log(ops::scale(sigma, 0.5));
    return s;
  });
}

}  // namespace flowmap
