// Velocity models and flow maps: v = sigma_data F(x / sigma_data, times).
#include <ATen/ATen.h>

#include "flowmap/nn/init.h"
#include "flowmap/nn/log_weight.h"
#include "flowmap/ops.h"
#include "flowmap/preconditioning.h"

namespace flowmap {

namespace {

class FlowModel : public NetworkModel {
 public:
  FlowModel(std::shared_ptr<Network> network, ModelInfo about, double time_scale)
      : NetworkModel(std::move(network)), info_(std::move(about)), time_scale_(time_scale) {}

  void add_log_weight(double scale) {
    log_weight_ = register_module("log_weight", std::make_shared<LogWeight>(scale));
  }

  ModelInfo info() const override { return info_; }

  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override {
    if (info_.kind == ModelKind::velocity) return evaluate(x, t, {}, c, ctx);
    // On the diagonal the gap is zero and stays so: no tangent.
    return network_->second_time_is_gap()
               ? evaluate(x, t, Dual(at::zeros_like(t.value)), c, ctx)
               : evaluate(x, t, t, c, ctx);
  }

  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition& c,
                        Context& ctx) override {
    if (info_.kind == ModelKind::velocity)
      return Model::average_velocity(x, s, t, c, ctx);
    return evaluate(x, s, network_->second_time_is_gap() ? t - s : t, c, ctx);
  }

  at::Tensor log_weight(const at::Tensor& s, const at::Tensor& t) override {
    return log_weight_ ? log_weight_->forward(s, t) : Model::log_weight(s, t);
  }
  bool has_log_weight() const override { return log_weight_ != nullptr; }

 private:
  Dual evaluate(const Dual& x, const Dual& time, const Dual& time2, const Condition& c,
                Context& ctx) {
    const double sd = info_.sigma_data;
    const Dual out = raw(sd == 1 ? x : ops::scale(x, 1 / sd), scaled(time),
                         time2.defined() ? scaled(time2) : time2, c, ctx);
    return sd == 1 ? out : ops::scale(out, sd);
  }

  Dual scaled(const Dual& time) const {
    return time_scale_ == 1 ? time : ops::scale(time, time_scale_);
  }

  ModelInfo info_;
  double time_scale_;
  std::shared_ptr<LogWeight> log_weight_;
};

}  // namespace

std::shared_ptr<Model> make_flow_model(const Config& spec) {
  const Config options = spec.child("preconditioning");
  const bool two_times = options.boolean("two_times", false);
  const NetworkShape shape = read_network_shape(spec, two_times ? 2 : 1);
  ModelInfo about;
  about.kind = two_times ? ModelKind::flow_map : ModelKind::velocity;
  about.sample_shape = shape.sample;
  about.label_dim = shape.label_dim;
  about.sigma_data = options.number("sigma_data", 1, 1e-6, 1e6);
  about.base_std = options.number("base_std", 1, 1e-6, 1e6);
  auto network = build_network(spec.child("network"), shape);
  const double time_scale =
      options.number("time_scale", network->default_time_scale(), 1e-6, 1e6);
  auto model = std::make_shared<FlowModel>(std::move(network), about, time_scale);
  if (options.boolean("log_weight", false))
    model->add_log_weight(options.number("log_weight_scale", 16, 1e-6, 1e6));
  return model;
}

}  // namespace flowmap
