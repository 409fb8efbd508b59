// Models with closed forms, in the precision of their input: oracles of samplers and
// methods. All views are Dual expressions, so tangents and reverse mode come with them.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/model.h"
#include "flowmap/ops.h"

namespace flowmap::testing {

// No network behind it: raw() is refused.
class AnalyticModel : public Model {
 public:
  explicit AnalyticModel(ModelInfo info) : info_(std::move(info)) {}
  ModelInfo info() const override { return info_; }
  Dual raw(const Dual&, const Dual&, const Dual&, const Condition&, Context&) override {
    throw Error("an analytic model has no network");
  }
  double multiply_adds() const override { return 0; }

 protected:
  ModelInfo info_;
};

// Gaussian to Gaussian in each dimension, x0 ~ N(m0, a^2), x1 ~ N(m1, c^2), x_t = (1-t) x0
// + t x1: mu_t = (1-t) m0 + t m1, sig_t^2 = (1-t)^2 a^2 + t^2 c^2,
// X_{s,t}(x) = mu_t + sig_t/sig_s (x - mu_s). Smooth on the diagonal.
class GaussianFlow : public AnalyticModel {
 public:
  GaussianFlow(std::vector<int64_t> sample_shape, double m0, double a, double m1, double c)
      : AnalyticModel(make_info(std::move(sample_shape), a)), m0_(m0), a_(a), m1_(m1), c_(c) {}

  Dual velocity(const Dual& x, const Dual& t, const Condition& condition,
                Context& ctx) override {
    return average_velocity(x, t, t, condition, ctx);
  }

  // (sig_t - sig_s)/(t - s) = (a^2 (s+t-2) + c^2 (s+t)) / (sig_s + sig_t): no quotient of
  // small differences.
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition&,
                        Context&) override {
    using namespace ops;
    const int64_t dims = x.value.dim();
    const Dual sum = s + t;
    const Dual growth =
        div(ops::add_scalar(ops::scale(sum, a_ * a_ + c_ * c_), -2 * a_ * a_),
            deviation(s) + deviation(t));
    const Dual rate = column(div(growth, deviation(s)), dims);
    return ops::add_scalar(rate * (x - column(mean_at(s), dims)), m1_ - m0_);
  }

  Dual mean_at(const Dual& t) const {
    return ops::add_scalar(ops::scale(t, m1_ - m0_), m0_);
  }
  Dual deviation(const Dual& t) const {
    const Dual rest = ops::add_scalar(ops::neg(t), 1);
    return ops::sqrt(ops::scale(rest * rest, a_ * a_) + ops::scale(t * t, c_ * c_));
  }

 private:
  static ModelInfo make_info(std::vector<int64_t> shape, double a) {
    ModelInfo info;
    info.kind = ModelKind::flow_map;
    info.sample_shape = std::move(shape);
    info.base_std = a;
    return info;
  }
  double m0_, a_, m1_, c_;
};

// All data at y: X_{s,t}(x) = y + (1-t)/(1-s) (x - y), v_{s,t}(x) = (y - x)/(1 - s).
class PointTarget : public AnalyticModel {
 public:
  PointTarget(std::vector<int64_t> sample_shape, double y)
      : AnalyticModel({.kind = ModelKind::flow_map, .sample_shape = std::move(sample_shape)}),
        y_(y) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    return average_velocity(x, t, t, c, ctx);
  }
  Dual average_velocity(const Dual& x, const Dual& s, const Dual&, const Condition&,
                        Context&) override {
    const Dual rest = ops::add_scalar(ops::neg(s), 1);
    return ops::div(ops::add_scalar(ops::neg(x), y_), ops::column(rest, x.value.dim()));
  }

 private:
  double y_;
};

// x1 = x0 + k: v = k everywhere.
class ShiftFlow : public AnalyticModel {
 public:
  ShiftFlow(std::vector<int64_t> sample_shape, double k)
      : AnalyticModel({.kind = ModelKind::flow_map, .sample_shape = std::move(sample_shape)}),
        k_(k) {}
  Dual velocity(const Dual& x, const Dual&, const Condition&, Context&) override {
    return at::full_like(x.value, k_);
  }
  Dual average_velocity(const Dual& x, const Dual&, const Dual&, const Condition&,
                        Context&) override {
    return at::full_like(x.value, k_);
  }

 private:
  double k_;
};

// sum_k w_k N(m_k, c_k^2 I) in any dimension, noise N(0, b^2 I). weights [K], means [K, d],
// deviations [K], float64. As a denoiser or a velocity model.
class MixtureModel : public AnalyticModel {
 public:
  MixtureModel(ModelKind kind, std::vector<int64_t> sample_shape, at::Tensor weights,
               at::Tensor means, at::Tensor deviations, double base_std = 1)
      : AnalyticModel({.kind = kind,
                       .sample_shape = std::move(sample_shape),
                       .base_std = base_std}),
        w_(std::move(weights)), m_(std::move(means)), c2_(deviations * deviations) {}

  void set_sigma_range(double low, double high) {
    info_.sigma_min = low;
    info_.sigma_max = high;
  }
  void set_init_sigma(double sigma) { info_.init_sigma = sigma; }

  // D(x; sigma) = sum_k r_k [m_k + c_k^2/(c_k^2 + sigma^2) (x - m_k)]
  Dual denoise(const Dual& x, const Dual& sigma, const Condition&, Context&) override {
    const Dual one = at::ones_like(sigma.value);
    const Dual variance = column_of(sigma * sigma) + row(c2_);  // [B, K]
    const Dual gain = ops::div(row(c2_), variance);
    return blend(x, one, variance, gain);
  }

  // v(x,t) = sum_k r_k [m_k + (t c_k^2 - (1-t) b^2)/s_k^2 (x - t m_k)],
  // s_k^2 = t^2 c_k^2 + (1-t)^2 b^2
  Dual velocity(const Dual& x, const Dual& t, const Condition&, Context&) override {
    const double b2 = info_.base_std * info_.base_std;
    const Dual rest = ops::add_scalar(ops::neg(t), 1);
    const Dual variance =
        column_of(t * t) * row(c2_) + ops::scale(column_of(rest * rest), b2);
    const Dual gain =
        ops::div(column_of(t) * row(c2_) - ops::scale(column_of(rest), b2), variance);
    return blend(x, t, variance, gain);
  }

 private:
  static Dual column_of(const Dual& a) { return ops::column(a, 2); }
  Dual row(const at::Tensor& a) const { return a.unsqueeze(0); }

  // sum_k r_k [m_k + gain_k (x - t m_k)], r over N(t m_k, variance_k I).
  Dual blend(const Dual& x, const Dual& t, const Dual& variance, const Dual& gain) const {
    using namespace ops;
    const int64_t batch = x.value.size(0), d = m_.size(1), k = m_.size(0);
    const std::array<int64_t, 3> wide{batch, 1, d}, per_component{batch, k, 1};
    const std::array<int64_t, 1> last{2}, middle{1};
    const Dual scaled_means = column(t, 3) * Dual(m_.unsqueeze(0));
    const Dual offset = reshape(x, wide) - scaled_means;  // [B, K, d]
    const Dual distance = sum(offset * offset, last, false);
    const Dual logits =
        Dual(at::log(w_).unsqueeze(0)) -
        ops::scale(ops::log(variance), 0.5 * static_cast<double>(d)) -
        ops::scale(div(distance, variance), 0.5);
    const Dual r = reshape(softmax(logits, 1), per_component);
    const Dual value =
        Dual(m_.unsqueeze(0)) + reshape(gain, per_component) * offset;
    return reshape(sum(r * value, middle, false), x.value.sizes());
  }

  at::Tensor w_, m_, c2_;
};

// N(m, Q diag(s^2) Q^T) over the flattened sample: D = m + Q diag(s^2/(s^2+sigma^2)) Q^T
// (x - m). mean [d], basis [d, d], deviations [d].
class GaussianDenoiser : public AnalyticModel {
 public:
  GaussianDenoiser(std::vector<int64_t> sample_shape, at::Tensor mean, at::Tensor basis,
                   at::Tensor deviations)
      : AnalyticModel({.kind = ModelKind::denoiser, .sample_shape = std::move(sample_shape)}),
        m_(std::move(mean)), q_(std::move(basis)), s2_(deviations * deviations) {}
  Dual denoise(const Dual& x, const Dual& sigma, const Condition&, Context&) override {
    const std::array<int64_t, 2> flat{x.value.size(0), m_.numel()};
    const Dual offset = ops::reshape(x, flat) - Dual(m_);
    const Dual variance = ops::column(sigma * sigma, 2) + Dual(s2_.unsqueeze(0));
    const Dual shrunk =
        ops::matmul(offset, Dual(q_)) * ops::div(Dual(s2_.unsqueeze(0)), variance);
    return ops::reshape(ops::matmul(shrunk, Dual(q_.t())) + Dual(m_), x.value.sizes());
  }

 private:
  at::Tensor m_, q_, s2_;
};

// X_{s,t} of a one-dimensional mixture: quantile transport F_t^{-1}(F_s(x)), x0 ~ N(0,
// a^2). By bisection, to the rounding of the distribution function.
inline double mixture_map(const std::vector<double>& w, const std::vector<double>& m,
                          const std::vector<double>& c, double a, double s, double t,
                          double x) {
  // Both tails, since 1 - F loses what is left of a small tail.
  const auto tail = [&](double time, double at, bool upper) {
    double total = 0;
    for (std::size_t k = 0; k < w.size(); ++k) {
      const double spread = std::hypot((1 - time) * a, time * c[k]);
      const double z = (at - time * m[k]) / (spread * std::sqrt(2.0));
      total += w[k] * 0.5 * std::erfc(upper ? z : -z);
    }
    return total;
  };
  const bool upper = tail(s, x, false) > 0.5;
  const double target = tail(s, x, upper);
  double low = -100, high = 100;
  for (int i = 0; i < 200; ++i) {
    const double middle = 0.5 * (low + high);
    const bool right = upper ? tail(t, middle, true) < target
                             : tail(t, middle, false) > target;
    (right ? high : low) = middle;
  }
  return 0.5 * (low + high);
}

// Counts the evaluations of another model.
class CountingModel : public Model {
 public:
  explicit CountingModel(Model& inner) : inner_(inner) {}
  ModelInfo info() const override { return inner_.info(); }
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    ++velocities;
    times.push_back(t.value.flatten()[0].item<double>());
    inputs.push_back(x.value.clone());
    return inner_.velocity(x, t, c, ctx);
  }
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition& c,
                        Context& ctx) override {
    ++averages;
    times.push_back(s.value.flatten()[0].item<double>());
    times.push_back(t.value.flatten()[0].item<double>());
    inputs.push_back(x.value.clone());
    return inner_.average_velocity(x, s, t, c, ctx);
  }
  Dual denoise(const Dual& x, const Dual& sigma, const Condition& c,
               Context& ctx) override {
    ++denoisings;
    times.push_back(sigma.value.flatten()[0].item<double>());
    inputs.push_back(x.value.clone());
    return inner_.denoise(x, sigma, c, ctx);
  }
  Dual raw(const Dual& x, const Dual& t, const Dual& t2, const Condition& c,
           Context& ctx) override {
    return inner_.raw(x, t, t2, c, ctx);
  }
  at::Tensor round_sigma(const at::Tensor& sigma) const override {
    return inner_.round_sigma(sigma);
  }
  double multiply_adds() const override { return inner_.multiply_adds(); }

  int64_t evaluations() const { return velocities + averages + denoisings; }
  int64_t velocities = 0, averages = 0, denoisings = 0;
  std::vector<double> times;       // of the first row, in order
  std::vector<at::Tensor> inputs;  // of all

 private:
  Model& inner_;
};

}  // namespace flowmap::testing
