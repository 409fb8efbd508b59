#include "flowmap/nn/mlp.h"

#include <ATen/ATen.h>

#include <array>

#include "flowmap/base/error.h"
#include "flowmap/nn/inputs.h"
#include "flowmap/ops.h"

namespace flowmap {

Mlp::Mlp(MlpOptions options, NetworkShape shape) : shape_(std::move(shape)) {
  FM_CHECK_USAGE(!shape_.sample.empty(), "network.type=mlp: the sample has no dimensions");
  check_times(shape_);
  for (const int64_t n : shape_.sample) sample_numel_ *= n;
  const int64_t out_channels =
      shape_.out_channels ? shape_.out_channels : shape_.sample[0];
  const int64_t out = sample_numel_ / shape_.sample[0] * out_channels;
  int64_t in = shape_.times + sample_numel_ + shape_.label_dim;
  for (int64_t i = 0; i <= options.depth; ++i) {
    const int64_t next = i < options.depth ? options.width : out;
    layers_.push_back(register_module(
        "layer" + std::to_string(i),
        std::make_shared<Linear>(in, next, Init{InitMode::lecun_truncated, 1, 0})));
    in = next;
  }
  if (shape_.guidance)
    guidance_ =
        register_module("guidance", std::make_shared<GuidanceEmbedding>(options.width));
}

Dual Mlp::forward(const Dual& x, const Dual& time, const Dual& time2,
                  const Condition& condition, Context& context) {
  check_inputs(shape_, x, time2, condition);
  const int64_t batch = x.value.size(0);
  const std::array<int64_t, 2> column = {batch, 1}, flat = {batch, sample_numel_};
  std::vector<Dual> parts = {ops::reshape(time, column)};
  if (shape_.times == 2) parts.push_back(ops::reshape(time2, column));
  parts.push_back(ops::reshape(x, flat));
  if (shape_.label_dim > 0) {
    const at::Tensor& labels = condition.class_labels;
    parts.emplace_back(labels.defined()
                           ? labels.to(x.value.options())
                           : at::zeros({batch, shape_.label_dim}, x.value.options()));
  }
  Dual h = ops::cat(parts, 1);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    h = layers_[i]->forward(h);
    if (i + 1 == layers_.size()) break;
    if (i == 0 && guidance_) h = h + guidance_->forward(condition, batch);
    h = ops::gelu(h, ops::GeluForm::tanh);
    if (context.taps) (*context.taps)["layer" + std::to_string(i)] = h.value;
  }
  std::vector<int64_t> out = {batch};
  out.insert(out.end(), shape_.sample.begin(), shape_.sample.end());
  if (shape_.out_channels) out[1] = shape_.out_channels;
  return ops::reshape(h, out);
}

double Mlp::multiply_adds() const {
  double total = guidance_ ? guidance_->multiply_adds() : 0;
  for (const auto& layer : layers_) total += layer->multiply_adds();
  return total;
}

std::shared_ptr<Network> make_mlp(const Config& options, const NetworkShape& shape) {
  MlpOptions o;
  o.width = options.integer("width", o.width, 1, 1 << 20);
  o.depth = options.integer("depth", o.depth, 1, 1000);
  return std::make_shared<Mlp>(o, shape);
}

}  // namespace flowmap
