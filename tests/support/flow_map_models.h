// Flow maps of one weight, and the small networks of reference/methods/flow_maps.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

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

}  // namespace flowmap::testing
