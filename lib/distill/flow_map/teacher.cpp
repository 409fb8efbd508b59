#include "distill/flow_map/teacher.h"

#include <ATen/ATen.h>

#include "flowmap/base/error.h"
#include "flowmap/interpolant.h"

namespace flowmap::distill {

bool Teacher::has_map() const { return model_->info().kind == ModelKind::flow_map; }

at::Tensor Teacher::velocity(const at::Tensor& x, const at::Tensor& t,
                             const Condition& condition, const at::Tensor& guidance,
                             Context& context) const {
  // On the diagonal nothing is guided but by the blend below.
  Condition plain = condition;
  plain.guidance = at::Tensor();
  if (model_->info().label_dim == 0) plain.class_labels = at::Tensor();
  const at::Tensor conditional = model_->velocity(x, t, plain, context).value;
  if (!guidance.defined()) return conditional;
  FM_CHECK_USAGE(plain.class_labels.defined(),
                 "guidance needs classes and a teacher that knows them");
  plain.class_labels = at::Tensor();
  const at::Tensor none = model_->velocity(x, t, plain, context).value;
  return none + column_like(guidance, x) * (conditional - none);
}

Dual Teacher::average_velocity(const Dual& x, const at::Tensor& s, const at::Tensor& t,
                               const Condition& condition, const at::Tensor& guidance,
                               Context& context) const {
  if (!has_map()) {
    FM_CHECK(!x.has_tangent(), "an Euler step of a teacher has no derivative here");
    return velocity(x.value, s, condition, guidance, context);
  }
  Condition theirs = condition;
  if (!model_->info().guidance_input) theirs.guidance = at::Tensor();
  return model_->average_velocity(x, s, t, theirs, context);
}

}  // namespace flowmap::distill
