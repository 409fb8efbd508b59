#include "samplers/straight.h"

#include <ATen/ATen.h>

#include "flowmap/base/error.h"
#include "samplers/ode.h"

namespace flowmap::samplers {

at::Tensor solve_straight(Model& model, const at::Tensor& latents,
                          const Condition& condition, const Schedule& schedule,
                          bool heun) {
  const at::NoGradGuard no_grad;
  const ModelInfo info = model.info();
  FM_CHECK_USAGE(!schedule.sigma && info.interpolant == Interpolant::linear,
                 "--solver straight: takes velocities on the linear interpolant; use "
                 "--solver euler or heun");
  Ode ode(model, condition, schedule, latents);
  const at::Tensor first = ode.start(latents);
  at::Tensor x = first;
  for (std::size_t i = 0; i + 1 < schedule.times.size(); ++i) {
    const double t = schedule.times[i], s = schedule.times[i + 1];
    const auto along = [&](const at::Tensor& v) {
      return s * (x + (1 - t) * v) + (1 - s) * first;
    };
    at::Tensor v = ode.slope(x, t);
    if (heun && s < 1) v = 0.5 * (v + ode.slope(along(v), s));
    x = along(v);
  }
  return x;
}

namespace {

class StraightSampler : public Sampler {
 public:
  explicit StraightSampler(bool heun) : heun_(heun) {}
  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw&) const override {
    return solve_straight(model, latents, condition, schedule, heun_)
        .to(latents.scalar_type());
  }
  int64_t evaluations(const ModelInfo&, const Schedule& schedule) const override {
    const auto steps = static_cast<int64_t>(schedule.times.size()) - 1;
    return heun_ ? 2 * steps - (schedule.times.back() >= 1 ? 1 : 0) : steps;
  }

 private:
  bool heun_;
};

}  // namespace

std::shared_ptr<Sampler> make_straight(const Config& options) {
  return std::make_shared<StraightSampler>(options.integer("order", 1, 1, 2) == 2);
}

}  // namespace flowmap::samplers
