// Inside ops*.cpp only: value and tangent as the two halves of one tensor.
//
// A linear operation runs both halves as one batch, and its result is handed on as two
// views of that batch. The next operation finds the batch again through the views, so a
// chain of operations joins its halves once, at its head, in both directions of autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "flowmap/dual.h"

namespace flowmap::ops::detail {

inline at::IntArrayRef ints(std::span<const std::int64_t> values) {
  return {values.data(), values.size()};
}

// The batch [2B, ...] that `x` is the two halves of, or undefined: value and tangent
// must be adjacent views, in the autograd graph too, of one tensor of twice their size.
at::Tensor packed_batch(const Dual& x);

// [2B, ...] with value first: the packed batch if there is one, else a joined copy.
// x has a tangent and at least one dimension.
at::Tensor joined(const Dual& x);

// The halves of a batch [2B, ...].
Dual halves(const at::Tensor& batch);

// batch [2B, ..., n at dimension `dim`, ...] with bias [n] added to its first half, in
// place. `batch` must be a fresh result that no other graph node has saved.
at::Tensor add_bias_to_values(const at::Tensor& batch, const at::Tensor& bias,
                              std::int64_t dim);

// True if a graph through these would be recorded.
bool needs_graph(std::initializer_list<at::Tensor> tensors);

}  // namespace flowmap::ops::detail
