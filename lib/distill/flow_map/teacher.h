// What the residuals of flow maps learn from: the student itself, an average of it, or a
// frozen network. One pointer; everything else is the same.
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/model.h"

namespace flowmap::distill {

class Teacher {
 public:
  Teacher(Model& model) : model_(&model) {}  // NOLINT: any model is a teacher

  // v_{t,t}(x; c), or with a `guidance` a [B] the guided one q_t(x) = v(x; null) +
  // a [v(x; c) - v(x; null)], which takes two evaluations (Boffi et al. 2025, arXiv
  // 2505.18825, app. F.5; Ho & Salimans 2022). Throws UsageError where there are no classes.
  at::Tensor velocity(const at::Tensor& x, const at::Tensor& t, const Condition& condition,
                      const at::Tensor& guidance, Context& context) const;
  // v_{s,t}(x); times may carry tangents. A teacher of one time makes one Euler step of its
  // (guided) velocity.
  Dual average_velocity(const Dual& x, const at::Tensor& s, const at::Tensor& t,
                        const Condition& condition, const at::Tensor& guidance,
                        Context& context) const;
  bool has_map() const;
  Model& model() const { return *model_; }

 private:
  Model* model_;
};

}  // namespace flowmap::distill
