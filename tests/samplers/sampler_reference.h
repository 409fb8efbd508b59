// The sampler groups of reference/methods: cases, their analytic models, recorded noise.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "flowmap/denoiser.h"
#include "samplers/edm.h"
#include "samplers/sampler.h"
#include "tests/support/analytic_models.h"
#include "tests/support/training_reference.h"

namespace flowmap::testing {

// The mixture or the Gaussian of a group as a denoiser.
inline std::shared_ptr<AnalyticModel> reference_denoiser(const MethodReference& reference,
                                                         const std::string& name) {
  const auto tensor = [&](const char* part) {
    return reference.at("model/" + name + "/" + part);
  };
  if (name == "gauss12")
    return std::make_shared<GaussianDenoiser>(std::vector<int64_t>{3, 2, 2}, tensor("m"),
                                              tensor("Q"), tensor("s"));
  return std::make_shared<MixtureModel>(ModelKind::denoiser, std::vector<int64_t>{2},
                                        tensor("w"), tensor("m"), tensor("c"));
}

// The same as a velocity model, b = 1: v = (D(x_t / t; (1-t)/t) - x_t)/(1-t).
class VelocityOf : public AnalyticModel {
 public:
  explicit VelocityOf(std::shared_ptr<AnalyticModel> denoiser)
      : AnalyticModel({.kind = ModelKind::velocity,
                       .sample_shape = denoiser->info().sample_shape}),
        denoiser_(std::move(denoiser)) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    const double time = t.value[0].item<double>();
    if (time == 1) return x;  // E[n | x] = 0
    const double level = time == 0 ? kHuge : (1 - time) / time;
    const at::Tensor noisy = time == 0 ? x.value * kHuge : x.value / time;
    const at::Tensor data =
        denoiser_->denoise(noisy, at::full_like(t.value, level), c, ctx).value;
    return (data - x.value) / (1 - time);
  }

 private:
  static constexpr double kHuge = 1e15;  // stands for an infinite level
  std::shared_ptr<AnalyticModel> denoiser_;
};

// Noise as it was recorded [draws, B, ...]: one tensor a step, or one a call in order.
inline samplers::NoiseSource recorded_noise(const at::Tensor& noise) {
  return [noise](std::size_t step) { return noise[static_cast<int64_t>(step)]; };
}
inline samplers::NoiseSource recorded_in_order(const at::Tensor& noise) {
  auto next = std::make_shared<int64_t>(0);
  return [noise, next](std::size_t) { return noise[(*next)++]; };
}
inline samplers::NoiseSource no_noise() {
  return [](std::size_t) -> at::Tensor { throw Error("no noise was recorded"); };
}

// A schedule of these knots, falling in sigma.
inline samplers::Schedule sigma_knots(const at::Tensor& sigmas) {
  samplers::Schedule schedule;
  schedule.sigma = true;
  schedule.source = "reference";
  for (int64_t i = 0; i < sigmas.numel(); ++i)
    schedule.times.push_back(sigmas[i].item<double>());
  return schedule;
}
// sigma of x = (1-sigma) x1 + sigma n as times of our clock.
inline samplers::Schedule flow_knots(const at::Tensor& sigmas) {
  samplers::Schedule schedule = sigma_knots(1 - sigmas);
  schedule.sigma = false;
  return schedule;
}

}  // namespace flowmap::testing
