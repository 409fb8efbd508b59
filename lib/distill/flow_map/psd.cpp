// Progressive self-distillation (Boffi, Albergo, Vanden-Eijnden 2025, arXiv 2505.18825) at
// midpoints (PSD-M) or uniform points (PSD-U), and shortcut models (Frans et al. 2024, arXiv
// 2410.12557), which are PSD-M on a dyadic grid.
#include <ATen/ATen.h>

#include <vector>

#include "distill/flow_map/residual.h"

namespace flowmap::distill {
namespace {

class SemigroupResidual : public Residual {
 public:
  SemigroupResidual(const Config& method, double clip) {
    options_.stop = read_stop_gradient(method, {StopGradient::convex, StopGradient::none},
                                       StopGradient::convex);
    const std::vector<std::string> splits = {"midpoint", "uniform"};
    uniform_ = method.choice("split", splits, "midpoint") == "uniform";
    options_.preconditioned = method.boolean("preconditioned", true);
    options_.clip = method.number("target_clip", clip, 0, 1e12);
  }
  at::Tensor loss(const ResidualInput& in) const override {
    const at::Tensor g = uniform_ ? in.draw.uniform("split", {}).to(in.at.s)
                                  : at::full_like(in.at.s, 0.5);
    return semigroup_loss(in.student, in.teacher, in.at, g, in.context, options_);
  }
  bool differentiates() const override { return false; }
  bool uses_teacher_map() const override { return true; }

 private:
  SemigroupOptions options_;
  bool uniform_;
};

MakeResidual semigroup(double clip) {
  return [clip](const Config& method, bool) {
    return std::make_unique<SemigroupResidual>(method, clip);
  };
}

}  // namespace

std::shared_ptr<Task> make_psd(const BuildContext& context) {
  return make_flow_map_task(context, "psd", {}, semigroup(0));
}

std::shared_ptr<Task> make_shortcut(const BuildContext& context) {
  FamilyDefaults defaults;
  defaults.pairs = "dyadic";
  defaults.eta = 0.875;  // the public code's bootstrap_every = 8
  defaults.diagonal_gap = 1.0 / 128;
  defaults.ema_target = true;
  return make_flow_map_task(context, "shortcut", defaults, semigroup(4));
}

}  // namespace flowmap::distill
