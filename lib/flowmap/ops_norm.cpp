// Normalisations and softmax.
#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"
#include "flowmap/ops_fused.h"
#include "flowmap/ops_packed.h"

namespace flowmap::ops {

Dual softmax(const Dual& a, int64_t dim) {
  at::Tensor value = at::softmax(a.value, dim);
  at::Tensor tangent;
  // p (ad - sum(p ad)): the Jacobian is symmetric, so LibTorch's backward is the rule.
  if (a.has_tangent())
    tangent = at::_softmax_backward_data(a.tangent, value, dim, a.value.scalar_type());
  return {std::move(value), std::move(tangent)};
}

Dual group_norm(const Dual& x, int64_t groups, const at::Tensor& weight,
                const at::Tensor& bias, double eps) {
  FM_CHECK(x.value.dim() >= 2, "group_norm needs [B, C, ...], got ", x.value.dim(),
           " dimensions");
  const int64_t channels = x.value.size(1);
  FM_CHECK(groups >= 1 && channels % groups == 0, "group_norm: ", channels,
           " channels do not divide into ", groups, " groups");
  for (const at::Tensor& given : {weight, bias})
    FM_CHECK(!given.defined() || (given.dim() == 1 && given.size(0) == channels),
             "group_norm: weight and bias must be [", channels, "]");
  if (!x.has_tangent()) return at::group_norm(x.value, groups, weight, bias, eps);
  return detail::halves(
      detail::group_norm_batch(detail::joined(x), groups, weight, bias, eps));
}

Dual layer_norm(const Dual& x, const at::Tensor& weight, const at::Tensor& bias,
                double eps) {
  const int64_t n = x.value.size(-1);
  if (!x.has_tangent()) return at::layer_norm(x.value, {n}, weight, bias, eps);
  const auto row_mean = [](const at::Tensor& t) { return t.mean(-1, true); };
  const at::Tensor centred = x.value - row_mean(x.value);
  const at::Tensor inverse_sigma = (row_mean(centred * centred) + eps).rsqrt();
  const at::Tensor xhat = centred * inverse_sigma;
  at::Tensor tangent =
      (x.tangent - row_mean(x.tangent) - xhat * row_mean(xhat * x.tangent)) *
      inverse_sigma;
  at::Tensor value = xhat;
  if (weight.defined()) {
    value = value * weight;
    tangent = tangent * weight;
  }
  if (bias.defined()) value = value + bias;
  return {std::move(value), std::move(tangent)};
}

Dual rms_normalize(const Dual& x, std::span<const int64_t> dims, double eps) {
  int64_t count = 1;
  for (const int64_t d : dims) count *= x.value.size(d);
  const at::ScalarType type = x.value.scalar_type();
  // Sums of squares of 16-bit numbers lose or overflow.
  const bool narrow = type == at::kBFloat16 || type == at::kHalf;
  const at::Tensor norm = at::linalg_vector_norm(x.value, 2, detail::ints(dims), true,
                                                 narrow ? at::kFloat : type);
  const double share = 1 / std::sqrt(static_cast<double>(count));
  const at::Tensor divisor = (norm * share + eps).to(type);
  at::Tensor value = x.value / divisor;
  at::Tensor tangent;
  if (x.has_tangent()) {
    // The derivative of the norm, 0 at 0.
    const at::Tensor along = (x.value * x.tangent).sum(detail::ints(dims), true);
    const at::Tensor slope = along / norm.masked_fill(norm == 0, 1).to(type) * share;
    tangent = (x.tangent - value * slope) / divisor;
  }
  return {std::move(value), std::move(tangent)};
}

}  // namespace flowmap::ops
