// Eulerian self-distillation (Boffi, Albergo, Vanden-Eijnden 2025, arXiv 2505.18825) and
// Eulerian map distillation from a frozen velocity (EMD, arXiv 2406.07507).
#include "distill/flow_map/residual.h"

namespace flowmap::distill {
namespace {

class EulerianResidual : public Residual {
 public:
  explicit EulerianResidual(const Config& method)
      : stop_(read_stop_gradient(method,
                                 {StopGradient::full, StopGradient::convex,
                                  StopGradient::none, StopGradient::detached},
                                 StopGradient::full)) {}
  at::Tensor loss(const ResidualInput& in) const override {
    return eulerian_loss(in.student, in.teacher, in.at, in.context, stop_);
  }

 private:
  StopGradient stop_;
};

}  // namespace

std::shared_ptr<Task> make_esd(const BuildContext& context) {
  return make_flow_map_task(context, "esd", {}, [](const Config& method, bool) {
    return std::make_unique<EulerianResidual>(method);
  });
}

}  // namespace flowmap::distill
