#include <ATen/ATen.h>

#include <string>

#include "flowmap/base/error.h"
#include "samplers/ode.h"

namespace flowmap::samplers {
namespace {

void require_flow_map(const ModelInfo& info) {
  if (info.kind != ModelKind::flow_map)
    throw UsageError("--solver flow_map: needs a model of two times, but this one is a " +
                     std::string(model_kind_name(info.kind)) +
                     "; use --solver euler or heun");
}

// x += (t_{i+1} - t_i) v_{t_i, t_{i+1}}(x): one jump an interval, each the map X_{s,t}
// itself (Boffi et al. 2025). One step calls v_{0,1} once.
class FlowMapJumps : public Sampler {
 public:
  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw&) const override {
    const at::NoGradGuard no_grad;
    require_flow_map(model.info());
    Ode ode(model, condition, schedule, latents);
    at::Tensor x = ode.start(latents);
    for (std::size_t i = 0; i + 1 < schedule.times.size(); ++i) {
      const double s = schedule.times[i], t = schedule.times[i + 1];
      x = x + (t - s) * ode.average_velocity(x, s, t);
    }
    return x.to(latents.scalar_type());
  }

  int64_t evaluations(const ModelInfo& info, const Schedule& schedule) const override {
    require_flow_map(info);
    return static_cast<int64_t>(schedule.times.size()) - 1;
  }
};

}  // namespace

std::shared_ptr<Sampler> make_flow_map(const Config&) {
  return std::make_shared<FlowMapJumps>();
}

}  // namespace flowmap::samplers
