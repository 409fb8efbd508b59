// Element by element: sums on the packed batch where there is one, else half by half;
// functions with their derivative in closed form.
#include <ATen/ATen.h>

#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"
#include "flowmap/ops_fused.h"
#include "flowmap/ops_packed.h"

namespace flowmap::ops {
namespace {

// A tangent as wide as the value it belongs to, after broadcasting and promotion.
at::Tensor tangent_like(const at::Tensor& tangent, const at::Tensor& value) {
  if (!tangent.defined()) return tangent;
  at::Tensor typed = tangent.to(value.scalar_type());
  return typed.sizes() == value.sizes() ? typed : typed.expand(value.sizes());
}

// op(a, b) must be linear in the pair.
template <class Op>
Dual linear_pair(const Dual& a, const Dual& b, Op op) {
  if (a.has_tangent() && b.has_tangent()) {
    if (a.value.sizes() == b.value.sizes()) {
      const at::Tensor left = detail::packed_batch(a);
      const at::Tensor right = left.defined() ? detail::packed_batch(b) : at::Tensor();
      if (right.defined()) return detail::halves(op(left, right));
    }
    at::Tensor value = op(a.value, b.value);
    at::Tensor tangent = tangent_like(op(a.tangent, b.tangent), value);
    return {std::move(value), std::move(tangent)};
  }
  at::Tensor value = op(a.value, b.value);
  at::Tensor tangent;
  if (a.has_tangent()) tangent = a.tangent;
  if (b.has_tangent()) tangent = op(at::zeros({}, b.tangent.options()), b.tangent);
  tangent = tangent_like(tangent, value);
  return {std::move(value), std::move(tangent)};
}

// f(value) and f'(value) * tangent, the product made by `rule(value, f(value), tangent)`.
template <class F, class Rule>
Dual pointwise(const Dual& a, F f, Rule rule) {
  at::Tensor value = f(a.value);
  at::Tensor tangent;
  if (a.has_tangent()) tangent = rule(a.value, value, a.tangent);
  return {std::move(value), std::move(tangent)};
}

}  // namespace

Dual add(const Dual& a, const Dual& b) {
  if (!a.has_tangent() && b.has_tangent()) return add(b, a);
  return linear_pair(a, b,
                     [](const at::Tensor& x, const at::Tensor& y) { return x + y; });
}

Dual sub(const Dual& a, const Dual& b) {
  return linear_pair(a, b,
                     [](const at::Tensor& x, const at::Tensor& y) { return x - y; });
}

Dual mul(const Dual& a, const Dual& b) {
  at::Tensor value = a.value * b.value;
  at::Tensor tangent;
  if (a.has_tangent() && b.has_tangent())
    tangent = at::addcmul(a.tangent * b.value, a.value, b.tangent);
  else if (a.has_tangent())
    tangent = a.tangent * b.value;
  else if (b.has_tangent())
    tangent = a.value * b.tangent;
  tangent = tangent_like(tangent, value);
  return {std::move(value), std::move(tangent)};
}

Dual div(const Dual& a, const Dual& b) {
  at::Tensor value = a.value / b.value;
  at::Tensor tangent;
  if (a.has_tangent() && b.has_tangent())
    tangent = (a.tangent - value * b.tangent) / b.value;
  else if (a.has_tangent())
    tangent = a.tangent / b.value;
  else if (b.has_tangent())
    tangent = -value * b.tangent / b.value;
  tangent = tangent_like(tangent, value);
  return {std::move(value), std::move(tangent)};
}

Dual add_scalar(const Dual& a, double c) { return {a.value + c, a.tangent}; }

Dual scale(const Dual& a, double c) {
  if (!a.has_tangent()) return a.value * c;
  if (const at::Tensor batch = detail::packed_batch(a); batch.defined())
    return detail::halves(batch * c);
  return {a.value * c, a.tangent * c};
}

Dual neg(const Dual& a) { return scale(a, -1.0); }

Dual exp(const Dual& a) {
  return pointwise(
      a, [](const auto& x) { return x.exp(); },
      [](const auto&, const auto& y, const auto& t) { return y * t; });
}

Dual log(const Dual& a) {
  return pointwise(
      a, [](const auto& x) { return x.log(); },
      [](const auto& x, const auto&, const auto& t) { return t / x; });
}

Dual sqrt(const Dual& a) {
  return pointwise(
      a, [](const auto& x) { return x.sqrt(); },
      [](const auto&, const auto& y, const auto& t) { return t / (y * 2); });
}

Dual sin(const Dual& a) {
  return pointwise(
      a, [](const auto& x) { return x.sin(); },
      [](const auto& x, const auto&, const auto& t) { return x.cos() * t; });
}

Dual cos(const Dual& a) {
  return pointwise(
      a, [](const auto& x) { return x.cos(); },
      [](const auto& x, const auto&, const auto& t) { return -x.sin() * t; });
}

Dual sigmoid(const Dual& a) {
  return pointwise(
      a, [](const auto& x) { return x.sigmoid(); },
      [](const auto&, const auto& y, const auto& t) {
        return at::sigmoid_backward(t, y);
      });
}

Dual silu(const Dual& a) {
  if (!a.has_tangent()) return at::silu(a.value);
  if (a.value.dim() == 0) {
    const Dual row = silu({a.value.unsqueeze(0), a.tangent.unsqueeze(0)});
    return {row.value.squeeze(0), row.tangent.squeeze(0)};
  }
  return detail::halves(detail::silu_batch(detail::joined(a)));
}

Dual relu(const Dual& a) {
  return pointwise(
      a, [](const auto& x) { return x.relu(); },
      [](const auto&, const auto& y, const auto& t) {
        return at::threshold_backward(t, y, 0);
      });
}

Dual gelu(const Dual& a, GeluForm form) {
  const char* name = form == GeluForm::tanh ? "tanh" : "none";
  return pointwise(
      a, [&](const auto& x) { return at::gelu(x, name); },
      [&](const auto& x, const auto&, const auto& t) {
        return at::gelu_backward(t, x, name);
      });
}

Dual clamp(const Dual& a, double low, double high) {
  FM_CHECK(low <= high, "clamp to [", low, ", ", high, "]: the bounds are reversed");
  return pointwise(
      a, [&](const auto& x) { return at::clamp(x, low, high); },
      [&](const auto& x, const auto&, const auto& t) {
        return t * ((x >= low).logical_and(x <= high));
      });
}

}  // namespace flowmap::ops
