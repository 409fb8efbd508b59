#include "flowmap/nn/unet_parts.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "flowmap/base/error.h"
#include "flowmap/nn/inputs.h"
#include "flowmap/ops.h"

namespace flowmap {

void check_unet_shape(const NetworkShape& shape, int64_t levels, int64_t patch,
                      const char* key) {
  FM_CHECK_USAGE(shape.sample.size() == 3,
                 "this U-Net takes images {C, H, W}; for points use network.type=mlp");
  check_times(shape);
  FM_CHECK_USAGE(levels > 0, "network.", key, " is empty");
  const int64_t h = shape.sample[1], w = shape.sample[2];
  FM_CHECK_USAGE(h % patch == 0 && w % patch == 0, "network.patch=", patch,
                 " does not divide the image of ", h, "x", w);
  const int64_t unit = int64_t{1} << (levels - 1);
  FM_CHECK_USAGE((h / patch) % unit == 0 && (w / patch) % unit == 0, levels,
                 " levels halve ", h / patch, "x", w / patch, " pixels ", levels - 1,
                 " times, which meets an odd size; give network.", key, " fewer levels "
                 "or use images whose sides are multiples of ", unit * patch);
}

std::vector<int64_t> read_channel_mult(const Config& options,
                                       const std::vector<int64_t>& fallback) {
  std::vector<int64_t> mult = options.integers("channel_mult", fallback);
  FM_CHECK_USAGE(std::all_of(mult.begin(), mult.end(), [](int64_t m) { return m > 0; }),
                 options.where("channel_mult"), ": network.channel_mult must be positive");
  return mult;
}

std::string read_time_embedding(const Config& options, const NetworkShape& shape) {
  static const std::string kForms[] = {"s_gap", "s_t", "encoder_decoder"};
  return shape.times == 2 ? options.choice("time_embedding", kForms, "s_gap") : "s_gap";
}

UNetMapping::UNetMapping(torch::nn::Module& owner, std::shared_ptr<TimeEmbedding> noise,
                         UNetMappingOptions options, const NetworkShape& shape)
    : options_(std::move(options)), label_dim_(shape.label_dim), times_(shape.times) {
  const UNetMappingOptions& o = options_;
  const auto linear = [&](const char* name, int64_t in, int64_t out, Init init,
                          bool bias = true) {
    auto layer = owner.register_module(name, std::make_shared<Linear>(in, out, init, bias));
    multiply_adds_ += layer->multiply_adds();
    return layer;
  };
  // In the order of EDM's files, which is also that of their optimiser states.
  map_noise_ = owner.register_module("map_noise", std::move(noise));
  if (o.song && label_dim_ > 0)
    map_label_ = linear("map_label", label_dim_, o.noise_channels, o.init_label);
  if (o.augment_dim > 0)
    map_augment_ =
        linear("map_augment", o.augment_dim, o.noise_channels, o.init_augment, false);
  map_layer0_ = linear("map_layer0", o.noise_channels, o.emb_channels, o.init);
  map_layer1_ = linear("map_layer1", o.emb_channels, o.emb_channels, o.init);
  if (!o.song && label_dim_ > 0)
    map_label_ = linear("map_label", label_dim_, o.emb_channels, o.init_label, false);
  if (times_ == 2 && o.time_embedding == "s_gap") {
    map2_layer0_ = linear("map2_layer0", o.noise_channels, o.emb_channels, o.init);
    map2_layer1_ =
        linear("map2_layer1", o.emb_channels, o.emb_channels, {o.init.mode, 0, 0});
  }
  if (shape.guidance) {
    map_guidance_ = owner.register_module(
        "map_guidance", std::make_shared<GuidanceEmbedding>(o.emb_channels));
    multiply_adds_ += map_guidance_->multiply_adds();
  }
  // The shared layers run once a time.
  if (times_ == 2 && o.time_embedding == "encoder_decoder")
    multiply_adds_ += map_layer0_->multiply_adds() + map_layer1_->multiply_adds();
}

Dual UNetMapping::features(const Dual& time) const {
  const Dual e = map_noise_->forward(time);
  if (!options_.song) return e;
  const int64_t half = options_.noise_channels / 2;
  const std::array<Dual, 2> swapped = {ops::narrow(e, 1, half, half),
                                       ops::narrow(e, 1, 0, half)};
  return ops::cat(swapped, 1);
}

Dual UNetMapping::embed_labels(const Condition& condition, int64_t batch,
                               const at::TensorOptions& type,
                               const Context& context) const {
  if (!map_label_) return {};
  at::Tensor labels = condition.class_labels;
  labels = labels.defined() ? labels.to(type) : at::zeros({batch, label_dim_}, type);
  FM_CHECK(labels.dim() == 2 && labels.size(1) == label_dim_, "class labels have shape ",
           labels.sizes(), "; the network expects [", batch, ", ", label_dim_, "]");
  const at::Tensor kept =
      row_dropout(labels, options_.label_dropout, "label_dropout", context);
  if (kept.defined()) labels = labels * kept.unsqueeze(1);
  if (options_.song) labels = labels * std::sqrt(static_cast<double>(label_dim_));
  return map_label_->forward(Dual(labels));
}

UNetEmbeddings UNetMapping::forward(const Dual& time, const Dual& time2,
                                    const Condition& condition,
                                    const Context& context) const {
  Dual first = features(time);
  const Dual second = times_ == 2 ? features(time2) : Dual();
  if (times_ == 2 && options_.time_embedding == "s_t")
    first = ops::scale(first + second, 0.5);
  const at::TensorOptions type = first.value.options();
  const Dual labels = embed_labels(condition, first.value.size(0), type, context);
  Dual augment;
  if (map_augment_ && condition.augment_labels.defined())
    augment = map_augment_->forward(Dual(condition.augment_labels.to(type)));
  const Dual guidance =
      map_guidance_ ? map_guidance_->forward(condition, first.value.size(0)) : Dual();
  const auto mapped = [&](Dual e) {
    if (options_.song && labels.defined()) e = e + labels;
    if (augment.defined()) e = e + augment;
    e = map_layer1_->forward(ops::silu(map_layer0_->forward(e)));
    if (!options_.song && labels.defined()) e = e + labels;
    return guidance.defined() ? e + guidance : e;
  };
  Dual emb = mapped(first);
  if (map2_layer0_)
    emb = emb + map2_layer1_->forward(ops::silu(map2_layer0_->forward(second)));
  emb = ops::silu(emb);
  if (times_ == 2 && options_.time_embedding == "encoder_decoder")
    return {emb, ops::silu(mapped(second))};
  return {emb, emb};
}

}  // namespace flowmap
