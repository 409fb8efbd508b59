// Velocity models and flow maps: v = sigma_data F(x / sigma_data, times). With reverse_time
// the network learned on the other clock (noise at 1, as MeanFlow and REPA): it is given
// 1 - t, and its answer points from data to noise: v = -sigma_data F(x / sigma_data, 1 - t).
#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/log_weight.h"
#include "flowmap/ops.h"
#include "flowmap/preconditioning.h"

namespace flowmap {

namespace {

class FlowModel : public NetworkModel {
 public:
  FlowModel(std::shared_ptr<Network> network, ModelInfo about, double time_scale,
            bool reverse_time)
      : NetworkModel(std::move(network)),
        info_(std::move(about)),
        time_scale_(time_scale),
        reverse_time_(reverse_time) {}

  void add_log_weight(const LogWeightOptions& options) {
    log_weight_ = register_module(options.normalized ? "logvar_linear" : "log_weight",
                                  std::make_shared<LogWeight>(options));
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
  void project() override {
    NetworkModel::project();
    if (log_weight_) log_weight_->project();
  }

 private:
  Dual evaluate(const Dual& x, const Dual& time, const Dual& time2, const Condition& c,
                Context& ctx) {
    const double sd = info_.sigma_data;
    Dual second = time2;  // a gap is the same on both clocks
    if (second.defined())
      second = scaled(network_->second_time_is_gap() ? second : on_its_clock(second));
    const Dual f = raw(sd == 1 ? x : ops::scale(x, 1 / sd), scaled(on_its_clock(time)),
                       second, c, ctx);
    const Dual out = sample_channels(f, info_.sample_shape[0]);
    const double factor = reverse_time_ ? -sd : sd;
    return factor == 1 ? out : ops::scale(out, factor);
  }

  Dual on_its_clock(const Dual& time) const {
    return reverse_time_ ? ops::add_scalar(ops::neg(time), 1) : time;
  }

  Dual scaled(const Dual& time) const {
    return time_scale_ == 1 ? time : ops::scale(time, time_scale_);
  }

  ModelInfo info_;
  double time_scale_;
  bool reverse_time_;
  std::shared_ptr<LogWeight> log_weight_;
};

}  // namespace

std::shared_ptr<Model> make_flow_model(const Config& spec) {
  const Config options = spec.child("preconditioning");
  const bool two_times = options.boolean("two_times", false);
  NetworkShape shape = read_network_shape(spec, two_times ? 2 : 1);
  shape.guidance = options.boolean("guidance_input", false);
  FM_CHECK_USAGE(!shape.guidance || shape.label_dim > 0, options.where("guidance_input"),
                 ": preconditioning.guidance_input needs classes; set data.labels = true");
  ModelInfo about;
  about.guidance_input = shape.guidance;
  const std::vector<std::string> interpolants = {"linear", "trig"};
  if (options.choice("interpolant", interpolants, "linear") == "trig")
    about.interpolant = Interpolant::trigonometric;
  about.kind = two_times ? ModelKind::flow_map : ModelKind::velocity;
  about.sample_shape = shape.sample;
  about.label_dim = shape.label_dim;
  about.sigma_data = options.number("sigma_data", 1, 1e-6, 1e6);
  about.base_std = options.number("base_std", 1, 1e-6, 1e6);
  auto network = build_network(spec.child("network"), shape);
  const double time_scale =
      options.number("time_scale", network->default_time_scale(), 1e-6, 1e6);
  auto model = std::make_shared<FlowModel>(
      std::move(network), about, time_scale, options.boolean("reverse_time", false));
  if (options.boolean("log_weight", false))
    model->add_log_weight(
        {.scale = options.number("log_weight_scale", 16, 1e-6, 1e6),
         .channels = options.integer("log_weight_channels", 128, 4, 1 << 16),
         .normalized = options.boolean("log_weight_normalized", false)});
  return model;
}

}  // namespace flowmap
