#include "flowmap/interpolant.h"

#include <ATen/ATen.h>

#include <numbers>
#include <vector>

namespace flowmap {

at::Tensor column_like(const at::Tensor& values, const at::Tensor& x) {
  std::vector<int64_t> shape(static_cast<std::size_t>(x.dim()), 1);
  shape[0] = values.size(0);
  return values.reshape(shape);
}

Interpolated interpolate(const at::Tensor& x1, const at::Tensor& noise,
                         const at::Tensor& t, double base_std, Interpolant interpolant) {
  const at::Tensor x0 = base_std == 1 ? noise : noise * base_std;
  if (interpolant == Interpolant::trigonometric) {
    const double rate = std::numbers::pi / 2;
    const at::Tensor c = column_like((t * rate).cos(), x1);
    const at::Tensor s = column_like((t * rate).sin(), x1);
    return {c * x0 + s * x1, rate * (c * x1 - s * x0)};
  }
  const at::Tensor direction = x1 - x0;
  // x0 + t (x1 - x0): one pass, exact at t = 0.
  return {x0 + column_like(t, x1) * direction, direction};
}

}  // namespace flowmap
