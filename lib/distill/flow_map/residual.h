// A member of the flow-map family: what its off-diagonal samples pay. Everything else (the
// diagonal term, times, weights, teachers, guidance, schedules) is the family's (task.cpp).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <initializer_list>
#include <memory>
#include <string>

#include "distill/flow_map/losses.h"
#include "distill/flow_map/teacher.h"
#include "distill/method.h"
#include "flowmap/base/config.h"
#include "flowmap/draw.h"

namespace flowmap::distill {

// One evaluation.
struct ResidualInput {
  Model& student;
  Teacher teacher;
  const MapSamples& at;  // at.velocity: the sample's own, guided where the run says so
  Context& context;
  const Draw& draw;      // the rows of `at`
  double progress;       // of the run, 0 at the start, 1 at the end
  int64_t images_seen;
};

class Residual {
 public:
  virtual ~Residual() = default;
  // Raw values, [B]: a sum over dimensions.
  virtual at::Tensor loss(const ResidualInput& in) const = 0;
  // Whether the loss asks for derivatives of v_{s,t}: those run in method.jvp_dtype.
  virtual bool differentiates() const { return true; }
  // Whether it asks the teacher for its map, which a velocity has only by Euler steps.
  virtual bool uses_teacher_map() const { return false; }
};

// What a member is unless the configuration says otherwise.
struct FamilyDefaults {
  std::string pairs = "triangle";  // pairs.type
  double one_probability = 0;
  std::string weight = "auto";     // learned where the model has a log-weight, else none
  double adaptive_p = 0.5, adaptive_c = 0.01;
  double eta = 0.75;
  bool diagonal_on_all = false;    // every sample carries a flow-matching term too
  double diagonal_gap = 0;
  bool ema_target = false;         // learns from an average where nothing is frozen
  bool needs_teacher = false;      // method.teacher is required
};

using MakeResidual =
    std::function<std::unique_ptr<Residual>(const Config& method, bool frozen_teacher)>;

// The method `name` of the family.
std::shared_ptr<Task> make_flow_map_task(const BuildContext& context,
                                         const std::string& name,
                                         const FamilyDefaults& defaults,
                                         const MakeResidual& make);

// method.stop_gradient, one of the values that fit the loss.
StopGradient read_stop_gradient(const Config& method,
                                std::initializer_list<StopGradient> allowed,
                                StopGradient fallback);

}  // namespace flowmap::distill
