// EDM2's denoiser: EDM's scalings and a learned uncertainty (Karras et al. 2024, arXiv
// 2312.02696, section 2.2 and appendix B).
#include <ATen/ATen.h>

#include "flowmap/denoiser.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/mp_layers.h"
#include "flowmap/preconditioning.h"

namespace flowmap {

namespace {

// A denoiser with u(sigma), a linear map of Fourier features of c_noise.
class Edm2Model : public NetworkModel {
 public:
  Edm2Model(std::shared_ptr<Network> network, DenoiserRule rule, const Config& spec,
            int64_t logvar_channels)
      : NetworkModel(network),
        scalings_(rule.scalings),
        denoiser_(make_denoiser(std::move(network), std::move(rule), spec)) {
    logvar_fourier_ = register_module("logvar_fourier",
                                      std::make_shared<MpFourier>(logvar_channels));
    logvar_linear_ = register_module("logvar_linear",
                                     std::make_shared<MpConv>(logvar_channels, 1, 0));
  }

  ModelInfo info() const override { return denoiser_->info(); }

  Dual denoise(const Dual& x, const Dual& sigma, const Condition& c,
               Context& ctx) override {
    return denoiser_->denoise(x, sigma, c, ctx);
  }

  at::Tensor log_variance(const at::Tensor& sigma) override {
    const Dual label = scalings_(times_in_own_type(Dual(sigma), sigma.numel())).c_noise;
    return logvar_linear_->forward(logvar_fourier_->forward(label)).value.squeeze(1);
  }
  bool has_log_variance() const override { return true; }

  void project() override {
    NetworkModel::project();
    logvar_linear_->project();
  }

 private:
  std::function<DenoiserScalings(const Dual& sigma)> scalings_;
  std::shared_ptr<Model> denoiser_;  // on the same network; not a module of this one
  std::shared_ptr<MpFourier> logvar_fourier_;
  std::shared_ptr<MpConv> logvar_linear_;
};

}  // namespace

std::shared_ptr<Model> make_edm2_model(const Config& spec) {
  const Config options = spec.child("preconditioning");
  const int64_t channels = options.integer("logvar_channels", 128, 1, 1 << 16);
  return std::make_shared<Edm2Model>(
      build_network(spec.child("network"), read_network_shape(spec, 1)),
      edm_rule(options), spec, channels);
}

}  // namespace flowmap
