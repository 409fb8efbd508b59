#include <ATen/ATen.h>

#include "samplers/ode.h"

namespace flowmap::samplers {
namespace {

// Karras et al. 2022, Algorithm 1 without churn: an Euler step, corrected by the mean of
// the slopes at both ends. The step to sigma = 0, where the slope is singular, stays
// Euler; in our clock the slope at t = 1 is finite and every step is corrected.
class Heun : public Sampler {
 public:
  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw&) const override {
    const at::NoGradGuard no_grad;
    Ode ode(model, condition, schedule, latents);
    at::Tensor x = ode.start(latents);
    for (std::size_t i = 0; i + 1 < schedule.times.size(); ++i) {
      const double now = schedule.times[i], next = schedule.times[i + 1];
      const double step = next - now;
      const at::Tensor slope = ode.slope(x, now);
      at::Tensor x_next = x + step * slope;
      if (!ends_in_zero(schedule, i))
        x_next = x + step * (0.5 * slope + 0.5 * ode.slope(x_next, next));
      x = x_next;
    }
    return x.to(latents.scalar_type());
  }

  int64_t evaluations(const ModelInfo&, const Schedule& schedule) const override {
    int64_t count = 0;
    for (std::size_t i = 0; i + 1 < schedule.times.size(); ++i)
      count += ends_in_zero(schedule, i) ? 1 : 2;
    return count;
  }

 private:
  static bool ends_in_zero(const Schedule& schedule, std::size_t step) {
    return schedule.sigma && schedule.times[step + 1] == 0;
  }
};

}  // namespace

std::shared_ptr<Sampler> make_heun(const Config&) { return std::make_shared<Heun>(); }

}  // namespace flowmap::samplers
