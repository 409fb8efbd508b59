#include <ATen/ATen.h>

#include "samplers/ode.h"

namespace flowmap::samplers {
namespace {

// x += (k_{i+1} - k_i) dx/dk. In sigma, the step to 0 lands on D(x; sigma) itself.
class Euler : public Sampler {
 public:
  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw&) const override {
    const at::NoGradGuard no_grad;
    Ode ode(model, condition, schedule, latents);
    at::Tensor x = ode.start(latents);
    for (std::size_t i = 0; i + 1 < schedule.times.size(); ++i)
      x = x + (schedule.times[i + 1] - schedule.times[i]) * ode.slope(x, schedule.times[i]);
    return x.to(latents.scalar_type());
  }

  int64_t evaluations(const ModelInfo&, const Schedule& schedule) const override {
    return static_cast<int64_t>(schedule.times.size()) - 1;
  }
};

}  // namespace

std::shared_ptr<Sampler> make_euler(const Config&) { return std::make_shared<Euler>(); }

}  // namespace flowmap::samplers
