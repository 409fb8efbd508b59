// Flow maps of one weight, exact maps, maps that are bent off the flow, and the small
// networks of reference/methods/flow_maps.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "flowmap/model.h"
#include "flowmap/ops.h"
#include "tests/support/analytic_models.h"

namespace flowmap::testing {

// v_{s,t}(x) = lambda x, no flow's map; or v_{s,t}(x) = lambda (t-s) x, whose residual
// comes through the derivative in t alone. d dimensions.
class OneWeightMap : public AnalyticModel {
 public:
  OneWeightMap(double lambda, bool times_gap)
      : AnalyticModel({.kind = ModelKind::flow_map, .sample_shape = {1}}),
        times_gap_(times_gap) {
    weight = register_parameter("lambda", at::full({1}, lambda, at::kDouble));
  }
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    return average_velocity(x, t, t, c, ctx);
  }
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition&,
                        Context&) override {
    const Dual product = Dual(weight) * x;
    return times_gap_ ? product * ops::column(t - s, x.value.dim()) : product;
  }
  at::Tensor weight;

 private:
  bool times_gap_;
};

// Layers of a perceptron as the reference stores them, float64: W0, b0, W1, b1, ...
class ReferenceNet : public torch::nn::Module {
 public:
  // `fetch(name)`: "W0", "b0", ...
  template <class Fetch>
  ReferenceNet(int layers, bool silu, const Fetch& fetch) : silu_(silu) {
    for (int i = 0; i < layers; ++i)
      for (const char* kind : {"W", "b"}) {
        const std::string name = kind + std::to_string(i);
        parts_.push_back(register_parameter(name, fetch(name).clone()));
      }
  }
  Dual forward(Dual h) const {
    for (std::size_t i = 0; i < parts_.size(); i += 2) {
      h = ops::linear(h, parts_[i], parts_[i + 1]);
      if (i + 2 < parts_.size())
        h = silu_ ? ops::silu(h) : ops::gelu(h, ops::GeluForm::tanh);
    }
    return h;
  }
  // In the reference's order.
  const std::vector<at::Tensor>& ordered() const { return parts_; }

 private:
  bool silu_;
  std::vector<at::Tensor> parts_;
};

// Gradients of all parameters in their order, flat; zero where there is none.
inline at::Tensor flat_gradient(const ReferenceNet& net) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& p : net.ordered())
    parts.push_back(p.grad().defined() ? p.grad().flatten() : at::zeros_like(p).flatten());
  return at::cat(parts);
}

// v = net(s, t, x / rescale) * rescale, w = net(s, t), as the authors' perceptron does.
class ReferenceMap : public AnalyticModel {
 public:
  ReferenceMap(std::shared_ptr<ReferenceNet> net, double rescale,
               std::shared_ptr<ReferenceNet> weights = nullptr)
      : AnalyticModel({.kind = ModelKind::flow_map, .sample_shape = {2}, .base_std = rescale,
                       .sigma_data = rescale}) {
    net_ = register_module("net", std::move(net));
    if (weights) weights_ = register_module("weights", std::move(weights));
  }
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    return average_velocity(x, t, t, c, ctx);
  }
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition&,
                        Context&) override {
    const std::array<Dual, 3> parts = {ops::column(s, 2), ops::column(t, 2),
                                       ops::scale(x, 1 / info_.sigma_data)};
    return ops::scale(net_->forward(ops::cat(parts, 1)), info_.sigma_data);
  }
  at::Tensor log_weight(const at::Tensor& s, const at::Tensor& t) override {
    if (!weights_) return Model::log_weight(s, t);
    return weights_->forward(Dual(at::stack({s, t}, 1))).value.squeeze(1);
  }
  bool has_log_weight() const override { return weights_ != nullptr; }
  const ReferenceNet& net() const { return *net_; }
  const ReferenceNet& weights() const { return *weights_; }

 private:
  std::shared_ptr<ReferenceNet> net_, weights_;
};

// Random weights, float64, rescale 1/2; smooth, and no flow's map.
inline std::shared_ptr<ReferenceMap> random_reference_map(uint64_t seed) {
  const Draw draw(seed, 0, 1);
  const std::vector<int64_t> widths = {4, 16, 16, 2};
  return std::make_shared<ReferenceMap>(
      std::make_shared<ReferenceNet>(3, false, [&](const std::string& name) {
        const auto i = static_cast<std::size_t>(name[1] - '0');
        if (name[0] == 'b') return draw.normal(name, {widths[i + 1]})[0].to(at::kDouble);
        return (draw.normal(name, {widths[i + 1], widths[i]})[0] /
                std::sqrt(static_cast<double>(widths[i]))).to(at::kDouble);
      }), 0.5);
}

// A second map of the same weights, with gradients of its own.
inline std::shared_ptr<ReferenceMap> copy_of(const ReferenceMap& map) {
  const auto parts = map.net().named_parameters();
  return std::make_shared<ReferenceMap>(
      std::make_shared<ReferenceNet>(
          static_cast<int>(parts.size() / 2), false,
          [&](const std::string& name) { return parts[name].detach(); }),
      map.info().sigma_data);
}

// The map of `inner` plus by (t-s)^2 x: off the flow, and the same on the diagonal.
class BentMap : public AnalyticModel {
 public:
  BentMap(Model& inner, double by)
      : AnalyticModel(inner.info()), inner_(inner), by_(by) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    return inner_.velocity(x, t, c, ctx);
  }
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition& c,
                        Context& ctx) override {
    return inner_.average_velocity(x, s, t, c, ctx) +
           ops::scale(ops::column(t - s, x.value.dim()) * x, by_);
  }

 private:
  Model& inner_;
  double by_;
};

// GaussianFlow along the trigonometric interpolant: sig_t^2 = a^2 cos^2(pi t/2) +
// c^2 sin^2(pi t/2), X_{s,t}(x) = mu_t + sig_t/sig_s (x - mu_s). Off the diagonal by a
// quotient, which loses digits as 1/(t-s).
class TrigonometricGaussian : public AnalyticModel {
 public:
  TrigonometricGaussian(std::vector<int64_t> sample_shape, double m0, double a, double m1,
                        double c)
      : AnalyticModel({.kind = ModelKind::flow_map,
                       .sample_shape = std::move(sample_shape),
                       .interpolant = Interpolant::trigonometric,
                       .base_std = a}),
        m0_(m0), a_(a), m1_(m1), c_(c) {}

  // b = mu' + (alpha alpha' a^2 + beta beta' c^2) / sig^2 (x - mu)
  Dual velocity(const Dual& x, const Dual& t, const Condition&, Context&) override {
    const int64_t dims = x.value.dim();
    const auto [alpha, beta] = shares(t);
    const Dual drift =
        ops::scale(ops::scale(alpha, m1_) - ops::scale(beta, m0_), kRate);
    const Dual growth =
        ops::div(ops::scale(alpha * beta, kRate * (c_ * c_ - a_ * a_)), variance(t));
    return ops::column(drift, dims) + ops::column(growth, dims) * (x - mean(t, dims));
  }
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition& c,
                        Context& ctx) override {
    if (at::equal(s.value, t.value)) return velocity(x, t, c, ctx);
    const int64_t dims = x.value.dim();
    const Dual growth = ops::column(
        ops::div(ops::sqrt(variance(t)), ops::sqrt(variance(s))), dims);
    const Dual landing = mean(t, dims) + growth * (x - mean(s, dims));
    return ops::div(landing - x, ops::column(t - s, dims));
  }

 private:
  static constexpr double kRate = std::numbers::pi / 2;
  static std::pair<Dual, Dual> shares(const Dual& t) {
    const Dual angle = ops::scale(t, kRate);
    return {ops::cos(angle), ops::sin(angle)};
  }
  Dual mean(const Dual& t, int64_t dims) const {
    const auto [alpha, beta] = shares(t);
    return ops::column(ops::scale(alpha, m0_) + ops::scale(beta, m1_), dims);
  }
  Dual variance(const Dual& t) const {
    const auto [alpha, beta] = shares(t);
    return ops::scale(alpha * alpha, a_ * a_) + ops::scale(beta * beta, c_ * c_);
  }
  double m0_, a_, m1_, c_;
};

// The exact map of a one-dimensional mixture, F_t(X_{s,t}(x)) = F_s(x), x0 ~ N(0, a^2), any
// order of s and t. Tangents by implicit differentiation of that equation; b_t(x) =
// -(dF_t/dt)(x) / F_t'(x), which does not use the posterior. No reverse mode. x [B, 1].
class QuantileMap : public AnalyticModel {
 public:
  QuantileMap(std::vector<double> w, std::vector<double> m, std::vector<double> c, double a)
      : AnalyticModel({.kind = ModelKind::flow_map, .sample_shape = {1}, .base_std = a}),
        w_(std::move(w)), m_(std::move(m)), c_(std::move(c)), a_(a) {}
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    return average_velocity(x, t, t, c, ctx);
  }
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition&,
                        Context&) override {
    const bool moves = x.has_tangent() || s.has_tangent() || t.has_tangent();
    at::Tensor value = at::empty_like(x.value), tangent = at::zeros_like(x.value);
    for (int64_t i = 0; i < x.value.size(0); ++i) {
      const double from = number(x.value, i), start = number(s.value, i),
                   end = number(t.value, i), h = end - start;
      if (h == 0) {
        FM_CHECK(!moves, "this map has no tangents on the diagonal");
        const Slopes here = slopes(start, from);
        value[i] = -here.in_time / here.density;
        continue;
      }
      const double landing = mixture_map(w_, m_, c_, a_, start, end, from);
      const double v = (landing - from) / h;
      value[i] = v;
      if (!moves) continue;
      const double dx = number(x.tangent, i), ds = number(s.tangent, i),
                   dt = number(t.tangent, i);
      const Slopes before = slopes(start, from), after = slopes(end, landing);
      const double moved = (before.density * dx + before.in_time * ds -
                            after.in_time * dt) / after.density;
      tangent[i] = (moved - dx - v * (dt - ds)) / h;
    }
    return moves ? Dual(value, tangent) : Dual(value);
  }

 private:
  struct Slopes {
    double density, in_time;  // of F_t(x) in x and in t
  };
  static double number(const at::Tensor& values, int64_t i) {
    return values.defined() ? values.flatten()[i].item<double>() : 0;
  }
  Slopes slopes(double t, double x) const {
    Slopes total{0, 0};
    for (std::size_t k = 0; k < w_.size(); ++k) {
      const double spread = std::hypot((1 - t) * a_, t * c_[k]);
      const double widening = (t * c_[k] * c_[k] - (1 - t) * a_ * a_) / spread;
      const double z = (x - t * m_[k]) / spread;
      const double density =
          w_[k] * std::exp(-0.5 * z * z) / (spread * std::sqrt(2 * std::numbers::pi));
      total.density += density;
      total.in_time -= density * (m_[k] + z * widening);
    }
    return total;
  }
  std::vector<double> w_, m_, c_;
  double a_;
};

}  // namespace flowmap::testing
