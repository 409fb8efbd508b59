// The slope of an ODE whose rows are at times of their own.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "flowmap/model.h"

namespace flowmap::samplers {

using Numbers = std::vector<double>;  // one a row

// dx/dk as Ode (samplers/ode.h) has it, but at one knot value a row. `model` is kept by the
// caller.
class RowSlope {
 public:
  RowSlope(Model& model, const Condition& condition, const at::Tensor& latents);
  // x [n, sample...] float64, n times -> float64.
  at::Tensor operator()(const at::Tensor& x, const Numbers& times);
  // Goes on with these rows of the condition (int64 [n]).
  void select(const at::Tensor& rows) { condition_ = condition_.select(rows); }
  // n numbers -> [n, 1, ...] float64 beside x.
  static at::Tensor column(const Numbers& values, const at::Tensor& x);

 private:
  Model& model_;
  Condition condition_;
  Context context_;
  ModelInfo info_;
  at::TensorOptions network_options_;
};

}  // namespace flowmap::samplers
