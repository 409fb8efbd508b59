// Linear maps: value and tangent as one double batch, the bias on the values alone.
#include <ATen/ATen.h>

#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"
#include "flowmap/ops_packed.h"

namespace flowmap::ops {

Dual linear(const Dual& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!x.has_tangent()) return at::linear(x.value, weight, bias);
  FM_CHECK(x.value.dim() >= 1, "linear needs at least one dimension");
  if (x.value.dim() == 1) {
    const Dual row = linear({x.value.unsqueeze(0), x.tangent.unsqueeze(0)}, weight, bias);
    return {row.value.squeeze(0), row.tangent.squeeze(0)};
  }
  at::Tensor batch = at::linear(detail::joined(x), weight);
  if (bias.defined()) batch = detail::add_bias_to_values(batch, bias, batch.dim() - 1);
  return detail::halves(batch);
}

Dual conv2d(const Dual& x, const at::Tensor& weight, const at::Tensor& bias,
            int64_t padding, int64_t stride, int64_t groups) {
  const auto run = [&](const at::Tensor& input, const at::Tensor& b) {
    return at::conv2d(input, weight, b, {stride, stride},
                      at::IntArrayRef{padding, padding}, {1, 1}, groups);
  };
  if (!x.has_tangent()) return run(x.value, bias);
  at::Tensor batch = run(detail::joined(x), {});
  if (bias.defined()) batch = detail::add_bias_to_values(batch, bias, 1);
  return detail::halves(batch);
}

Dual conv_transpose2d(const Dual& x, const at::Tensor& weight, const at::Tensor& bias,
                      int64_t padding, int64_t stride, int64_t groups) {
  const auto run = [&](const at::Tensor& input, const at::Tensor& b) {
    return at::conv_transpose2d(input, weight, b, {stride, stride}, {padding, padding},
                                {0, 0}, groups, {1, 1});
  };
  if (!x.has_tangent()) return run(x.value, bias);
  at::Tensor batch = run(detail::joined(x), {});
  if (bias.defined()) batch = detail::add_bias_to_values(batch, bias, 1);
  return detail::halves(batch);
}

Dual matmul(const Dual& a, const Dual& b) {
  at::Tensor value = at::matmul(a.value, b.value);
  at::Tensor tangent;
  if (a.has_tangent()) tangent = at::matmul(a.tangent, b.value);
  if (b.has_tangent()) {
    at::Tensor second = at::matmul(a.value, b.tangent);
    tangent = tangent.defined() ? tangent + second : std::move(second);
  }
  return {std::move(value), std::move(tangent)};
}

Dual attention(const Dual& q, const Dual& k, const Dual& v, double scale) {
  const bool plain = !q.has_tangent() && !k.has_tangent() && !v.has_tangent();
  // The fused form cannot be differentiated twice (gradient penalties), so it serves
  // only where no graph is recorded.
  if (plain && q.value.dim() == 4 && !detail::needs_graph({q.value, k.value, v.value}))
    return at::scaled_dot_product_attention(q.value, k.value, v.value, {}, 0.0, false,
                                            scale);
  const Dual scores = matmul(ops::scale(q, scale), transpose(k, -2, -1));
  return matmul(softmax(scores, -1), v);
}

}  // namespace flowmap::ops
