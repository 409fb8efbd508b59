// Chord regression (CMT, arXiv 2509.24526): simulate the teacher's flow, regress its chords;
// and two-sided flow map matching without a teacher (FMM, Boffi et al. 2024, arXiv
// 2406.07507).
#include <ATen/ATen.h>

#include "distill/flow_map/residual.h"

namespace flowmap::distill {
namespace {

class ChordResidual : public Residual {
 public:
  explicit ChordResidual(const Config& method)
      : steps_(method.integer("chord_steps", 4, 1, 1 << 16)) {}
  at::Tensor loss(const ResidualInput& in) const override {
    return chord_loss(in.student, in.teacher, in.at, steps_, in.context);
  }
  bool differentiates() const override { return false; }

 private:
  int64_t steps_;
};

class TwoSidedResidual : public Residual {
 public:
  explicit TwoSidedResidual(const Config& method)
      : round_trip_(method.boolean("round_trip", true)) {}
  // The sample I_s with its velocity is what the loss calls I_t: it goes to t and back.
  at::Tensor loss(const ResidualInput& in) const override {
    MapSamples turned = in.at;
    std::swap(turned.s, turned.t);
    return two_sided_loss(in.student, turned, in.context, round_trip_);
  }

 private:
  bool round_trip_;
};

}  // namespace

std::shared_ptr<Task> make_chord(const BuildContext& context) {
  FamilyDefaults defaults;
  defaults.needs_teacher = true;
  return make_flow_map_task(context, "chord", defaults, [](const Config& method, bool) {
    return std::make_unique<ChordResidual>(method);
  });
}

std::shared_ptr<Task> make_fmm(const BuildContext& context) {
  return make_flow_map_task(context, "fmm", {}, [](const Config& method, bool) {
    return std::make_unique<TwoSidedResidual>(method);
  });
}

}  // namespace flowmap::distill
