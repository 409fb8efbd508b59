// Gaussian flow with a deviation of its own in every dimension.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "tests/support/analytic_models.h"

namespace flowmap::testing {

// x0 ~ N(0, 1), x1 ~ N(0, s_d^2) in each dimension d, independent: v_d = rate_d(t) x_d.
class DiagonalFlow : public AnalyticModel {
 public:
  explicit DiagonalFlow(const std::vector<double>& s)
      : AnalyticModel({.kind = ModelKind::velocity,
                       .sample_shape = {static_cast<int64_t>(s.size())}}),
        s2_(at::tensor(s, at::kDouble).square()) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition&, Context&) override {
    const at::Tensor time = t.value.unsqueeze(1), rest = 1 - time;
    return (time * s2_ - rest) / (time.square() * s2_ + rest.square()) * x.value;
  }

 private:
  at::Tensor s2_;
};

}  // namespace flowmap::testing
