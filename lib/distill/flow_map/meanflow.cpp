// Targets with detached derivatives: MeanFlow (Geng et al. 2025, arXiv 2505.13447), improved
// MeanFlow (arXiv 2512.02012), consistency training and distillation of flow maps (Align
// Your Flow, Sabour et al. 2025, arXiv 2506.14603), and alpha-Flow (arXiv 2510.20771), whose
// limit is MeanFlow. Between them only the velocities differ.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "distill/flow_map/residual.h"

namespace flowmap::distill {
namespace {

// Where a velocity comes from: the sample, or the teacher (which is the student itself
// where none is frozen).
enum class Source { sample, teacher };

Source read_source(const Config& method, const char* key, Source fallback) {
  const std::vector<std::string> names = {"sample", "teacher"};
  return method.choice(key, names, fallback == Source::sample ? "sample" : "teacher") ==
                 "sample"
             ? Source::sample
             : Source::teacher;
}

class TangentResidual : public Residual {
 public:
  TangentResidual(const Config& method, Source base, Source tangent)
      : base_(read_source(method, "velocity", base)),
        tangent_(read_source(method, "tangent_velocity", tangent)) {
    const Config tangents = method.child("tangent");
    warmup_ = tangents.count("warmup", 1, 0);
    options_.max_gap = tangents.number("max_gap", 1, 0, 1);
    options_.normalize = tangents.boolean("normalize", false);
    if (options_.normalize) {
      options_.c = tangents.number("c", 0.1, 0, 1e6);
      options_.p = tangents.number("p", 1, 0, 2);
      options_.invariant = tangents.boolean("dimension_invariant", true);
    }
  }
  at::Tensor loss(const ResidualInput& in) const override {
    at::Tensor taught;
    if (base_ == Source::teacher || tangent_ == Source::teacher) {
      const at::NoGradGuard no_grad;
      taught = in.teacher.velocity(in.at.x, in.at.s, in.at.condition,
                                   in.at.teacher_guidance, in.context);
    }
    TangentOptions options = options_;
    if (warmup_ > 0)
      options.warmup = std::min(1.0, static_cast<double>(in.images_seen) /
                                         static_cast<double>(warmup_));
    return tangent_loss(in.student, in.at,
                        base_ == Source::sample ? in.at.velocity : taught,
                        tangent_ == Source::sample ? in.at.velocity : taught, in.context,
                        options);
  }

 private:
  Source base_, tangent_;
  int64_t warmup_;  // images
  TangentOptions options_;
};

MakeResidual tangents(Source base, Source tangent) {
  return [base, tangent](const Config& method, bool) {
    return std::make_unique<TangentResidual>(method, base, tangent);
  };
}

// alpha from 1 to 0 along a sigmoid; within `snap` of an end it is that end. At 0 the
// derivative takes over.
class AlphaFlowResidual : public Residual {
 public:
  explicit AlphaFlowResidual(const Config& method)
      : limit_(method, Source::sample, Source::sample),
        fixed_(method.number("alpha", 0, 0, 1)),
        temperature_(method.number("alpha_temperature", 25, 1e-3, 1e6)),
        snap_(method.number("alpha_snap", 5e-3, 0, 0.5)) {}
  at::Tensor loss(const ResidualInput& in) const override {
    const double alpha = fixed_ > 0 ? fixed_ : at_progress(in.progress);
    if (alpha == 0) return limit_.loss(in);
    return alpha_flow_loss(in.student, in.teacher, in.at, in.at.velocity, alpha,
                           in.context);
  }
  bool uses_teacher_map() const override { return true; }

 private:
  double at_progress(double progress) const {
    const double alpha = 1 / (1 + std::exp(temperature_ * (progress - 0.5)));
    return alpha < snap_ ? 0 : alpha > 1 - snap_ ? 1 : alpha;
  }
  TangentResidual limit_;
  double fixed_, temperature_, snap_;
};

FamilyDefaults meanflow_defaults() {
  FamilyDefaults defaults;
  defaults.weight = "adaptive";
  defaults.adaptive_p = 0.75;
  defaults.adaptive_c = 1e-3;
  return defaults;
}

}  // namespace

std::shared_ptr<Task> make_meanflow(const BuildContext& context) {
  return make_flow_map_task(context, "meanflow", meanflow_defaults(),
                            tangents(Source::sample, Source::sample));
}

std::shared_ptr<Task> make_improved_meanflow(const BuildContext& context) {
  return make_flow_map_task(context, "improved_meanflow", meanflow_defaults(),
                            tangents(Source::sample, Source::teacher));
}

std::shared_ptr<Task> make_alpha_flow(const BuildContext& context) {
  return make_flow_map_task(context, "alpha_flow", meanflow_defaults(),
                            [](const Config& method, bool) {
                              return std::make_unique<AlphaFlowResidual>(method);
                            });
}

// With a frozen teacher its velocity is the target (distillation), else the sample's
// (training).
std::shared_ptr<Task> make_consistency(const BuildContext& context) {
  FamilyDefaults defaults = meanflow_defaults();
  defaults.one_probability = 1;
  return make_flow_map_task(context, "consistency", defaults,
                            [](const Config& method, bool frozen) {
                              const Source source = frozen ? Source::teacher
                                                           : Source::sample;
                              return tangents(source, source)(method, frozen);
                            });
}

// Align Your Flow's Eulerian form: consistency distillation between any two times.
std::shared_ptr<Task> make_ayf_emd(const BuildContext& context) {
  FamilyDefaults defaults = meanflow_defaults();
  defaults.needs_teacher = true;
  return make_flow_map_task(context, "ayf_emd", defaults,
                            tangents(Source::teacher, Source::teacher));
}

}  // namespace flowmap::distill
