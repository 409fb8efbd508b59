#include "flowmap/ops_fused_cpu.h"

#include <cmath>
#include <cstring>

#include "kernels/vectors.h"

namespace flowmap::ops::detail {
namespace {

constexpr std::int64_t kVectorBytes = 64;

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
  typedef std::int32_t mask __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr std::int64_t kLanes = kVectorBytes / static_cast<std::int64_t>(sizeof(T));

// `count` numbers from p (at most one vector), the other lanes `fill`.
template <class T>
FM_INLINE Vec<T> load(const T* p, std::int64_t count, T fill = T(0)) {
  Vec<T> v;
  if (count >= kLanes<T>) {
    std::memcpy(&v, p, kVectorBytes);
  } else {
    for (std::int64_t i = 0; i < kLanes<T>; ++i) v[i] = i < count ? p[i] : fill;
  }
  return v;
}

template <class T>
FM_INLINE void store(T* p, std::int64_t count, const Vec<T>& v) {
  if (count >= kLanes<T>) {
    std::memcpy(p, &v, kVectorBytes);
  } else {
    for (std::int64_t i = 0; i < count; ++i) p[i] = v[i];
  }
}

template <class T>
FM_INLINE T lane_sum(const Vec<T>& v) {
  T sum = 0;
  for (std::int64_t i = 0; i < kLanes<T>; ++i) sum += v[i];
  return sum;
}

// exp(x), 2 ulp: x = k ln 2 + r, |r| <= ln(2)/2, a polynomial for e^r (the degree-6 one
// of Cephes' expf), 2^k through the exponent bits. Clamped to the normal floats.
FM_INLINE Vec<float> exponential(const Vec<float>& given) {
  using Mask = VectorOf<float>::mask;
  const Vec<float> zero = {};
  Vec<float> x = given < -87.0f ? zero - 87.0f : given;
  x = x > 88.0f ? zero + 88.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> shifted = x * 1.44269504f + kRound;
  const Vec<float> k = shifted - kRound;
  const Vec<float> r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  Vec<float> p = zero + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Mask power = (Mask)shifted - 0x4B400000 + 127;
  return p * (Vec<float>)(power << 23);
}

FM_INLINE Vec<double> exponential(const Vec<double>& given) {
  Vec<double> x = given;
  for (std::int64_t i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

template <class T>
FM_INLINE Vec<T> logistic(const Vec<T>& z) {
  return T(1) / (T(1) + exponential(-z));
}

template <class T>
FM_INLINE void silu_forward_body(const T* z, const T* zd, T* y, T* yd, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes<T>) {
    const Vec<T> v = load(z + i, n - i), s = logistic<T>(v), value = v * s;
    store<T>(y + i, n - i, value);
    store<T>(yd + i, n - i, load(zd + i, n - i) * (s + value * (T(1) - s)));
  }
}

template <class T>
FM_INLINE void silu_backward_body(const T* z, const T* zd, const T* a, const T* ad, T* gz,
                                  T* gzd, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += kLanes<T>) {
    const Vec<T> v = load(z + i, n - i), s = logistic<T>(v), other = T(1) - s;
    const Vec<T> first = s + v * s * other;
    const Vec<T> second = s * other * (T(2) + v * (other - s));
    const Vec<T> adjoint = load(ad + i, n - i);
    store<T>(gz + i, n - i,
             first * load(a + i, n - i) + second * load(zd + i, n - i) * adjoint);
    store<T>(gzd + i, n - i, first * adjoint);
  }
}

template <class T>
FM_INLINE NormStats<T> norm_forward_body(const NormGroup<T>& g, const T* bias, T eps,
                                         T* y, T* yd) {
  const std::int64_t n = g.channels * g.positions;
  const T scale = T(1) / static_cast<T>(n);
  Vec<T> x_sum = {}, u_sum = {};
  for (std::int64_t i = 0; i < n; i += kLanes<T>) {
    x_sum += load(g.x + i, n - i);
    u_sum += load(g.u + i, n - i);
  }
  NormStats<T> st;
  st.mean = lane_sum<T>(x_sum) * scale;
  st.tangent_mean = lane_sum<T>(u_sum) * scale;
  // Second pass over centred numbers: the difference of squares would cancel.
  Vec<T> square_sum = {}, product_sum = {};
  for (std::int64_t i = 0; i < n; i += kLanes<T>) {
    const Vec<T> centred = load(g.x + i, n - i, st.mean) - st.mean;
    square_sum += centred * centred;
    product_sum += centred * load(g.u + i, n - i);
  }
  st.inverse_sigma = T(1) / std::sqrt(lane_sum<T>(square_sum) * scale + eps);
  st.overlap = lane_sum<T>(product_sum) * scale * st.inverse_sigma;
  for (std::int64_t c = 0; c < g.channels; ++c) {
    const T w = g.weight ? g.weight[c] : T(1), b = bias ? bias[c] : T(0);
    const T wr = w * st.inverse_sigma;
    const std::int64_t at = c * g.positions;
    for (std::int64_t i = 0; i < g.positions; i += kLanes<T>) {
      const std::int64_t left = g.positions - i;
      const Vec<T> xhat = (load(g.x + at + i, left) - st.mean) * st.inverse_sigma;
      store<T>(y + at + i, left, xhat * w + b);
      store<T>(yd + at + i, left,
               (load(g.u + at + i, left) - st.tangent_mean - xhat * st.overlap) * wr);
    }
  }
  return st;
}

// With x^ = (x - mean) r, P = weight a, Q = weight ad, J the projection
// J v = r (v - mean(v) - x^ mean(x^ v)), so yd / weight = J u:
//   gu = J Q
//   gx = J P - r^2 x^ (mean(Q u) - mean(Q) mean(u) - c q) - r q J u - r c J Q
// with c = mean(x^ u), q = mean(x^ Q).
template <class T>
FM_INLINE void norm_backward_body(const NormGroup<T>& g, const NormStats<T>& st,
                                  const T* a, const T* ad, T* gx, T* gu, T* gweight,
                                  T* gbias) {
  const T r = st.inverse_sigma, m = st.tangent_mean, c = st.overlap;
  T p_mean = 0, p_xhat = 0, q_mean = 0, q = 0, q_u = 0;
  for (std::int64_t k = 0; k < g.channels; ++k) {
    const std::int64_t at = k * g.positions;
    Vec<T> a_sum = {}, ax_sum = {}, d_sum = {}, dx_sum = {}, du_sum = {};
    for (std::int64_t i = 0; i < g.positions; i += kLanes<T>) {
      const std::int64_t left = g.positions - i;
      const Vec<T> xhat = (load(g.x + at + i, left) - st.mean) * r;
      const Vec<T> va = load(a + at + i, left), vd = load(ad + at + i, left);
      a_sum += va;
      ax_sum += va * xhat;
      d_sum += vd;
      dx_sum += vd * xhat;
      du_sum += vd * load(g.u + at + i, left);
    }
    const T w = g.weight ? g.weight[k] : T(1);
    const T s_a = lane_sum<T>(a_sum), s_ax = lane_sum<T>(ax_sum);
    const T s_d = lane_sum<T>(d_sum), s_dx = lane_sum<T>(dx_sum);
    const T s_du = lane_sum<T>(du_sum);
    gweight[k] = s_ax + r * (s_du - m * s_d - c * s_dx);
    gbias[k] = s_a;
    p_mean += w * s_a;
    p_xhat += w * s_ax;
    q_mean += w * s_d;
    q += w * s_dx;
    q_u += w * s_du;
  }
  const T scale = T(1) / static_cast<T>(g.channels * g.positions);
  p_mean *= scale, p_xhat *= scale, q_mean *= scale, q *= scale, q_u *= scale;
  const T along_xhat = p_xhat + r * (q_u - q_mean * m - c * q);
  for (std::int64_t k = 0; k < g.channels; ++k) {
    const T w = g.weight ? g.weight[k] : T(1);
    const std::int64_t at = k * g.positions;
    for (std::int64_t i = 0; i < g.positions; i += kLanes<T>) {
      const std::int64_t left = g.positions - i;
      const Vec<T> xhat = (load(g.x + at + i, left) - st.mean) * r;
      const Vec<T> ju = (load(g.u + at + i, left) - m - xhat * c) * r;
      const Vec<T> jq = (load(ad + at + i, left) * w - q_mean - xhat * q) * r;
      store<T>(gu + at + i, left, jq);
      store<T>(
          gx + at + i, left,
          (load(a + at + i, left) * w - p_mean - xhat * along_xhat - ju * q - jq * c) *
              r);
    }
  }
}

// Clones need plain functions.
#define FM_FUSED_ENTRY(T, suffix)                                                       \
  FM_CLONES void silu_forward_##suffix(const T* z, const T* zd, T* y, T* yd,            \
                                       std::int64_t n) {                                \
    silu_forward_body<T>(z, zd, y, yd, n);                                              \
  }                                                                                     \
  FM_CLONES void silu_backward_##suffix(const T* z, const T* zd, const T* a,            \
                                        const T* ad, T* gz, T* gzd, std::int64_t n) {   \
    silu_backward_body<T>(z, zd, a, ad, gz, gzd, n);                                    \
  }                                                                                     \
  FM_CLONES void norm_forward_##suffix(const NormGroup<T>& g, const T* bias, T eps,     \
                                       T* y, T* yd, NormStats<T>& stats) {              \
    stats = norm_forward_body<T>(g, bias, eps, y, yd);                                  \
  }                                                                                     \
  FM_CLONES void norm_backward_##suffix(                                                \
      const NormGroup<T>& g, const NormStats<T>& stats, const T* a, const T* ad, T* gx, \
      T* gu, T* gweight, T* gbias) {                                                    \
    norm_backward_body<T>(g, stats, a, ad, gx, gu, gweight, gbias);                     \
  }
FM_FUSED_ENTRY(float, f32)
FM_FUSED_ENTRY(double, f64)
#undef FM_FUSED_ENTRY

}  // namespace

#define FM_FUSED_EXPORT(T, suffix)                                                      \
  template <>                                                                           \
  void silu_forward_cpu<T>(const T* z, const T* zd, T* y, T* yd, std::int64_t n) {      \
    silu_forward_##suffix(z, zd, y, yd, n);                                             \
  }                                                                                     \
  template <>                                                                           \
  void silu_backward_cpu<T>(const T* z, const T* zd, const T* a, const T* ad, T* gz,    \
                            T* gzd, std::int64_t n) {                                   \
    silu_backward_##suffix(z, zd, a, ad, gz, gzd, n);                                   \
  }                                                                                     \
  template <>                                                                           \
  NormStats<T> group_norm_forward_cpu<T>(const NormGroup<T>& group, const T* bias,      \
                                         T eps, T* y, T* yd) {                          \
    NormStats<T> stats;                                                                 \
    norm_forward_##suffix(group, bias, eps, y, yd, stats);                              \
    return stats;                                                                       \
  }                                                                                     \
  template <>                                                                           \
  void group_norm_backward_cpu<T>(const NormGroup<T>& group, const NormStats<T>& stats, \
                                  const T* a, const T* ad, T* gx, T* gu, T* gweight,    \
                                  T* gbias) {                                           \
    norm_backward_##suffix(group, stats, a, ad, gx, gu, gweight, gbias);                \
  }
FM_FUSED_EXPORT(float, f32)
FM_FUSED_EXPORT(double, f64)
#undef FM_FUSED_EXPORT
#undef FM_CLONES
#undef FM_INLINE

}  // namespace flowmap::ops::detail
