// Inside ops_fused.cpp only: the loops behind silu_batch and group_norm_batch on the CPU.
// Contiguous arrays, float or double; no tensors here. Threads: the caller splits the
// range. float sums run in 16 lanes, so a mean over n numbers is off by about
// (n/16) 2^-24 relative at worst.
#pragma once

#include <cstdint>

namespace flowmap::ops::detail {

// y = silu(z), yd = silu'(z) zd for n numbers. float: within 4 ulp.
template <class T>
void silu_forward_cpu(const T* z, const T* zd, T* y, T* yd, std::int64_t n);

// Adjoints a of y and ad of yd -> adjoints of z and zd:
//   gz = silu'(z) a + silu''(z) zd ad,   gzd = silu'(z) ad.
template <class T>
void silu_backward_cpu(const T* z, const T* zd, const T* a, const T* ad, T* gz, T* gzd,
                       std::int64_t n);

// One group of one sample: `channels` times `positions` numbers in a row.
template <class T>
struct NormGroup {
  std::int64_t channels = 0, positions = 0;
  const T* weight = nullptr;  // [channels] or nullptr (ones)
  const T* x = nullptr;       // values
  const T* u = nullptr;       // tangents
};

// What the forward pass leaves for the backward pass: mean and 1/sigma of x, mean of u,
// mean of xhat u.
template <class T>
struct NormStats {
  T mean, inverse_sigma, tangent_mean, overlap;
};

// y = xhat weight + bias, yd = (u - mean(u) - xhat mean(xhat u)) / sigma * weight.
template <class T>
NormStats<T> group_norm_forward_cpu(const NormGroup<T>& group, const T* bias, T eps, T* y,
                                    T* yd);

// Adjoints a of y, ad of yd -> adjoints gx of x, gu of u, and this group's part of the
// adjoints of weight and bias ([channels] each).
template <class T>
void group_norm_backward_cpu(const NormGroup<T>& group, const NormStats<T>& stats,
                             const T* a, const T* ad, T* gx, T* gu, T* gweight, T* gbias);

// There for float and double; said here so that no caller instantiates the templates.
template <>
void silu_forward_cpu(const float* z, const float* zd, float* y, float* yd, std::int64_t n);
template <>
void silu_backward_cpu(const float* z, const float* zd, const float* a, const float* ad,
                       float* gz, float* gzd, std::int64_t n);
template <>
NormStats<float> group_norm_forward_cpu(const NormGroup<float>& group, const float* bias,
                                      float eps, float* y, float* yd);
template <>
void group_norm_backward_cpu(const NormGroup<float>& group, const NormStats<float>& stats,
                             const float* a, const float* ad, float* gx, float* gu,
                             float* gweight, float* gbias);
template <>
void silu_forward_cpu(const double* z, const double* zd, double* y, double* yd, std::int64_t n);
template <>
void silu_backward_cpu(const double* z, const double* zd, const double* a, const double* ad,
                       double* gz, double* gzd, std::int64_t n);
template <>
NormStats<double> group_norm_forward_cpu(const NormGroup<double>& group, const double* bias,
                                      double eps, double* y, double* yd);
template <>
void group_norm_backward_cpu(const NormGroup<double>& group, const NormStats<double>& stats,
                             const double* a, const double* ad, double* gx, double* gu,
                             double* gweight, double* gbias);

}  // namespace flowmap::ops::detail
