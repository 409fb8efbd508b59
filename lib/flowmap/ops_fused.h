// Inside ops*.cpp only: SiLU and group normalisation of a packed batch, value and tangent
// in one pass each way. Closed forms: docs/dual-numbers.md; adjoints: ops_fused_cpu.cpp.
//
// Their backward passes are written by hand. Asked for a graph through the backward pass
// (create_graph), they run it as a composition that autograd can follow.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace flowmap::ops::detail {

// batch [2B, ...]: values z, then tangents zd -> silu(z), then silu'(z) zd.
at::Tensor silu_batch(const at::Tensor& batch);

// batch [2B, C, ...]; weight, bias [C] or undefined. See ops::group_norm.
at::Tensor group_norm_batch(const at::Tensor& batch, std::int64_t groups,
                            const at::Tensor& weight, const at::Tensor& bias, double eps);

}  // namespace flowmap::ops::detail
