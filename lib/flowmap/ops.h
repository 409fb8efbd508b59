// Every operation a network may use, on dual numbers. One network source serves plain
// evaluation, Jacobian-vector products, and reverse over them.
//
// Rules (tested against LibTorch's forward mode and central differences in float64, and
// reverse over each against finite differences):
// - an undefined tangent stays undefined as long as no input has one: plain evaluation
//   costs nothing extra;
// - linear operations run value and tangent as one double batch, the bias on the value
//   half only; the others carry the closed form;
// - weights are constants of the forward mode (no tangent) but not of autograd.
// Autocast, where a caller enables it, reaches the same ATen operations inside.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "flowmap/dual.h"

namespace flowmap::ops {

// Element by element, with broadcasting.
Dual add(const Dual& a, const Dual& b);
Dual sub(const Dual& a, const Dual& b);
Dual mul(const Dual& a, const Dual& b);
Dual div(const Dual& a, const Dual& b);
Dual add_scalar(const Dual& a, double c);
Dual scale(const Dual& a, double c);
Dual neg(const Dual& a);
Dual exp(const Dual& a);
Dual log(const Dual& a);
Dual sqrt(const Dual& a);
Dual sin(const Dual& a);
Dual cos(const Dual& a);
Dual sigmoid(const Dual& a);
Dual silu(const Dual& a);
Dual relu(const Dual& a);
enum class GeluForm { tanh, erf };
Dual gelu(const Dual& a, GeluForm form);
Dual clamp(const Dual& a, double low, double high);  // tangent zero outside

// x [..., in], weight [out, in], bias [out] or undefined -> [..., out].
Dual linear(const Dual& x, const at::Tensor& weight, const at::Tensor& bias);
// x [B, Cin, H, W], weight [Cout, Cin/groups, kh, kw], bias [Cout] or undefined.
Dual conv2d(const Dual& x, const at::Tensor& weight, const at::Tensor& bias,
            int64_t padding, int64_t stride = 1, int64_t groups = 1);
// weight [Cin, Cout/groups, kh, kw].
Dual conv_transpose2d(const Dual& x, const at::Tensor& weight, const at::Tensor& bias,
                      int64_t padding, int64_t stride, int64_t groups = 1);
// a [..., n, k] times b [..., k, m].
Dual matmul(const Dual& a, const Dual& b);
Dual softmax(const Dual& a, int64_t dim);
// scale * q k^T, softmax over keys, times v. q, k, v [..., n, d]; the tangent by the
// product rule through the plain composition (fused attention has no forward mode).
Dual attention(const Dual& q, const Dual& k, const Dual& v, double scale);

// x [B, C, ...], C divisible by groups; weight, bias [C] or undefined. Statistics over
// each group's channels and positions, biased variance.
Dual group_norm(const Dual& x, int64_t groups, const at::Tensor& weight,
                const at::Tensor& bias, double eps);
// Over the last dimension, size n; weight, bias [n] or undefined.
Dual layer_norm(const Dual& x, const at::Tensor& weight, const at::Tensor& bias,
                double eps);
// x / (eps + r), r the root of the mean square over `dims` (Karras et al. 2024, the
// magnitude-preserving networks). At x = 0 the derivative is 1 / eps.
Dual rms_normalize(const Dual& x, std::span<const int64_t> dims, double eps);

Dual sum(const Dual& a, std::span<const int64_t> dims, bool keepdim);
Dual mean(const Dual& a, std::span<const int64_t> dims, bool keepdim);

// Shapes.
Dual reshape(const Dual& a, std::span<const int64_t> shape);
Dual permute(const Dual& a, std::span<const int64_t> order);
Dual transpose(const Dual& a, int64_t d0, int64_t d1);
Dual flip(const Dual& a, std::span<const int64_t> dims);
Dual narrow(const Dual& a, int64_t dim, int64_t start, int64_t length);
Dual index_select(const Dual& a, int64_t dim, const at::Tensor& index);
std::vector<Dual> chunk(const Dual& a, int64_t chunks, int64_t dim);
std::vector<Dual> unbind(const Dual& a, int64_t dim);
Dual cat(std::span<const Dual> parts, int64_t dim);
// Zeros around the last dimensions: (before, after) of the last, of the one before it, ...
Dual pad(const Dual& a, std::span<const int64_t> amounts);
// x [B, C, H, W] -> [B, C, factor H, factor W], every pixel repeated.
Dual upsample_nearest(const Dual& x, int64_t factor);
// [B] -> [B, 1, ..., 1] with `dims` dimensions in all, to multiply images by times.
Dual column(const Dual& a, int64_t dims);
Dual to(const Dual& a, at::ScalarType dtype);
// Row-major in memory; nothing where it is already.
Dual contiguous(const Dual& a);
// The same numbers in another order in memory; x [B, C, H, W] for channels-last.
Dual in_memory_order(const Dual& a, at::MemoryFormat order);

// The constant: value kept in the graph, tangent dropped.
Dual without_tangent(const Dual& a);
// Both halves cut from the autograd graph.
Dual detach(const Dual& a);
// The tangent, or zeros.
at::Tensor tangent_or_zeros(const Dual& a);

}  // namespace flowmap::ops

namespace flowmap {

// Beside Dual, so that argument-dependent lookup finds them.
inline Dual operator+(const Dual& a, const Dual& b) { return ops::add(a, b); }
inline Dual operator-(const Dual& a, const Dual& b) { return ops::sub(a, b); }
inline Dual operator*(const Dual& a, const Dual& b) { return ops::mul(a, b); }

}  // namespace flowmap
