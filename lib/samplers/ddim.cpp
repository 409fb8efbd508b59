#include "samplers/ddim.h"

#include <ATen/ATen.h>

#include <cmath>

namespace flowmap::samplers {

at::Tensor solve_ddim(Model& model, const at::Tensor& latents, const Condition& condition,
                      const Schedule& schedule, const DdimOptions& options,
                      const NoiseSource& noise) {
  const at::NoGradGuard no_grad;
  const Schedule knots = walked(schedule, options.final_sigma);
  DataPredictor predictor(model, condition, knots, latents);
  at::Tensor x = predictor.start(latents);
  for (std::size_t i = 0; i + 1 < knots.times.size(); ++i) {
    const NoiseLevel now = predictor.level(knots.times[i]);
    const NoiseLevel next = predictor.level(knots.times[i + 1]);
    at::Tensor data = predictor.denoised(x, knots.times[i]);
    const at::Tensor residual = (x - now.alpha * data) / now.sigma;
    if (options.clip > 0) data = data.clamp(-options.clip, options.clip);
    const double q = -std::expm1(-2 * (next.log_snr() - now.log_snr()));
    const double kept = std::sqrt(1 - options.eta * options.eta * q);
    x = next.alpha * data + next.sigma * kept * residual;
    if (options.eta > 0 && next.sigma > 0)
      x = x + next.sigma * options.eta * std::sqrt(q) * noise(i);
  }
  return x;
}

namespace {

class Ddim : public Sampler {
 public:
  explicit Ddim(const DdimOptions& options) : options_(options) {}
  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw& draw) const override {
    return solve_ddim(model, latents, condition, schedule, options_,
                      noise_of(draw, latents))
        .to(latents.scalar_type());
  }
  int64_t evaluations(const ModelInfo&, const Schedule& schedule) const override {
    return static_cast<int64_t>(walked(schedule, options_.final_sigma).times.size()) - 1;
  }

 private:
  DdimOptions options_;
};

}  // namespace

DdimOptions read_ddim_options(const Config& options) {
  DdimOptions read;
  read.eta = options.number("eta", 0.0, 0, 1);
  read.final_sigma = read_final_sigma(options);
  read.clip = options.number("clip", 0.0, 0);
  return read;
}

std::shared_ptr<Sampler> make_ddim(const Config& options) {
  return std::make_shared<Ddim>(read_ddim_options(options));
}

}  // namespace flowmap::samplers
