// Lagrangian self-distillation (Boffi, Albergo, Vanden-Eijnden 2025, arXiv 2505.18825), map
// distillation from a frozen velocity (LMD, arXiv 2406.07507), and terminal velocity
// matching (arXiv 2511.19797), which is the same residual in another setting.
#include "distill/flow_map/residual.h"

namespace flowmap::distill {
namespace {

class LagrangianResidual : public Residual {
 public:
  explicit LagrangianResidual(const Config& method, StopGradient fallback)
      : stop_(read_stop_gradient(
            method, {StopGradient::convex, StopGradient::none, StopGradient::detached},
            fallback)) {}
  at::Tensor loss(const ResidualInput& in) const override {
    return lagrangian_loss(in.student, in.teacher, in.at, in.context, stop_);
  }

 private:
  StopGradient stop_;
};

MakeResidual lagrangian(StopGradient fallback) {
  return [fallback](const Config& method, bool) {
    return std::make_unique<LagrangianResidual>(method, fallback);
  };
}

}  // namespace

std::shared_ptr<Task> make_lsd(const BuildContext& context) {
  return make_flow_map_task(context, "lsd", {}, lagrangian(StopGradient::convex));
}

// Align Your Flow's Lagrangian form: derivatives detached, a frozen teacher.
std::shared_ptr<Task> make_ayf_lmd(const BuildContext& context) {
  FamilyDefaults defaults;
  defaults.needs_teacher = true;
  return make_flow_map_task(context, "ayf_lmd", defaults,
                            lagrangian(StopGradient::detached));
}

std::shared_ptr<Task> make_tvm(const BuildContext& context) {
  FamilyDefaults defaults;
  defaults.pairs = "gap";
  defaults.eta = 0;
  defaults.diagonal_on_all = true;
  defaults.ema_target = true;
  return make_flow_map_task(context, "tvm", defaults, lagrangian(StopGradient::convex));
}

}  // namespace flowmap::distill
