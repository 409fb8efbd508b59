// Dual numbers: a tensor and its directional derivative (docs/dual-numbers.md).
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>

namespace flowmap {

// value: any shape. tangent: the same shape and dtype, or undefined, which means zero.
// Both take part in reverse-mode autograd, so a loss may use the tangent and be
// differentiated again (reverse over forward).
struct Dual {
  at::Tensor value;
  at::Tensor tangent;

  Dual() = default;
  Dual(at::Tensor v) : value(std::move(v)) {}  // NOLINT: a constant is a dual number
  Dual(at::Tensor v, at::Tensor t) : value(std::move(v)), tangent(std::move(t)) {}

  bool defined() const { return value.defined(); }
  bool has_tangent() const { return tangent.defined(); }
};

}  // namespace flowmap
