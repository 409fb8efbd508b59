// DiT (Peebles & Xie 2023, arXiv 2212.09748) and SiT (Ma et al. 2024, arXiv 2401.08740):
// one transformer on patches, two rows of the registry. They differ in how time enters
// (an index 0 .. 999, or t in [0, 1] as it is) and in what becomes of the second half of
// the channels that learn_sigma adds.
#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/network.h"
#include "flowmap/nn/dit_layers.h"
#include "flowmap/nn/gradient_checkpointing.h"
#include "flowmap/nn/guidance_embedding.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/inputs.h"
#include "flowmap/nn/layers.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

struct DitOptions {
  int64_t hidden_size = 384, depth = 12, num_heads = 6, patch_size = 2;
  double mlp_ratio = 4;
  // Twice the channels. DiT gives them all (the second half is the variance's), unless
  // the shape says how many channels come out; SiT drops the second half itself.
  bool learn_sigma = true;
  bool keep_sigma = true;
  // Labels are dropped with this probability in training; 0: no null class at all.
  double class_dropout_prob = 0.1;
  QkNorm qk_norm = QkNorm::none;
  int64_t frequency_embedding_size = 256;
  double max_period = 10000;
  double time_scale = 1;
  // Two times: "s_gap", "s_t", or "encoder_decoder", where the last `decoder_depth` blocks
  // and the final layer see t and the others s (decoupled MeanFlow, arXiv 2510.24474).
  std::string time_embedding = "s_gap";
  int64_t decoder_depth = 0;
};

// "blocks": only names its children.
class DitBlocks : public torch::nn::Module {};

// Parameters under the published networks' names; with time_embedding=s_gap also
// gap_embedder.mlp.{0,2}, whose last layer starts at zero, and with a scale of guidance
// guidance_embedder.weight, which does too. Buffer pos_embed [1, N, D].
// Taps: "emb" [B, D], "block0" ... [B, N, D].
class DiffusionTransformer : public Network {
 public:
  DiffusionTransformer(DitOptions options, NetworkShape shape);
  Dual forward(const Dual& x, const Dual& time, const Dual& time2,
               const Condition& condition, Context& context) override;
  bool second_time_is_gap() const override {
    return shape_.times == 2 && options_.time_embedding == "s_gap";
  }
  double default_time_scale() const override { return options_.time_scale; }
  double multiply_adds() const override;

 private:
  at::Tensor embed_labels(const Condition& condition, int64_t batch,
                          const at::TensorOptions& like, const Context& context) const;

  DitOptions options_;
  NetworkShape shape_;
  int64_t rows_, columns_, out_channels_;
  at::Tensor pos_embed_;
  std::shared_ptr<PatchEmbed> x_embedder_;
  std::shared_ptr<TimestepEmbedder> t_embedder_, gap_embedder_;
  std::shared_ptr<LabelEmbedder> y_embedder_;
  std::shared_ptr<GuidanceEmbedding> guidance_embedder_;
  std::vector<std::shared_ptr<DitBlock>> blocks_;
  std::shared_ptr<DitFinalLayer> final_layer_;
};

void check_dit_shape(const DitOptions& o, const NetworkShape& shape) {
  FM_CHECK_USAGE(shape.sample.size() == 3,
                 "this transformer takes images {C, H, W}; for points use "
                 "network.type=mlp");
  check_times(shape);
  const int64_t h = shape.sample[1], w = shape.sample[2];
  FM_CHECK_USAGE(h % o.patch_size == 0 && w % o.patch_size == 0, "network.patch_size=",
                 o.patch_size, " does not divide the image of ", h, "x", w,
                 "; give a network.patch_size that does");
  FM_CHECK_USAGE(o.hidden_size % o.num_heads == 0, "network.num_heads=", o.num_heads,
                 " does not divide network.hidden_size=", o.hidden_size);
  FM_CHECK_USAGE(o.hidden_size % 4 == 0, "network.hidden_size=", o.hidden_size,
                 " must be a multiple of 4 for its sine-cosine positions");
}

DiffusionTransformer::DiffusionTransformer(DitOptions options, NetworkShape shape)
    : options_(std::move(options)), shape_(std::move(shape)) {
  const DitOptions& o = options_;
  check_dit_shape(o, shape_);
  rows_ = shape_.sample[1] / o.patch_size;
  columns_ = shape_.sample[2] / o.patch_size;
  const int64_t channels = shape_.sample[0];
  out_channels_ = shape_.out_channels ? shape_.out_channels
                                      : channels * (o.learn_sigma && o.keep_sigma ? 2 : 1);
  pos_embed_ = register_buffer(
      "pos_embed", sincos_positions(o.hidden_size, rows_, columns_).to(at::kFloat));
  x_embedder_ = register_module(
      "x_embedder", std::make_shared<PatchEmbed>(channels, o.hidden_size, o.patch_size));
  t_embedder_ = register_module(
      "t_embedder", std::make_shared<TimestepEmbedder>(
                        o.hidden_size, o.frequency_embedding_size, o.max_period));
  if (shape_.label_dim > 0)
    y_embedder_ = register_module(
        "y_embedder", std::make_shared<LabelEmbedder>(shape_.label_dim, o.hidden_size,
                                                      o.class_dropout_prob > 0));
  auto blocks = register_module("blocks", std::make_shared<DitBlocks>());
  for (int64_t i = 0; i < o.depth; ++i)
    blocks_.push_back(blocks->register_module(
        std::to_string(i), std::make_shared<DitBlock>(o.hidden_size, o.num_heads,
                                                      o.mlp_ratio, o.qk_norm)));
  const int64_t told = out_channels_ * (o.learn_sigma && !o.keep_sigma ? 2 : 1);
  final_layer_ = register_module(
      "final_layer", std::make_shared<DitFinalLayer>(o.hidden_size, o.patch_size, told));
  if (second_time_is_gap())
    gap_embedder_ = register_module(
        "gap_embedder", std::make_shared<TimestepEmbedder>(o.hidden_size,
                                                           o.frequency_embedding_size,
                                                           o.max_period, true));
  if (shape_.guidance)
    guidance_embedder_ = register_module(
        "guidance_embedder", std::make_shared<GuidanceEmbedding>(o.hidden_size));
}

at::Tensor DiffusionTransformer::embed_labels(const Condition& condition, int64_t batch,
                                              const at::TensorOptions& like,
                                              const Context& context) const {
  at::Tensor labels = condition.class_labels;
  FM_CHECK_USAGE(labels.defined() || y_embedder_->has_null_class(),
                 "no class labels, and network.class_dropout_prob=0 leaves the network "
                 "without a null class: give labels, or train with "
                 "network.class_dropout_prob > 0");
  labels = labels.defined() ? labels.to(like) : at::zeros({batch, shape_.label_dim}, like);
  FM_CHECK(labels.dim() == 2 && labels.size(0) == batch &&
               labels.size(1) == shape_.label_dim,
           "class labels have shape ", labels.sizes(), "; the network expects [", batch,
           ", ", shape_.label_dim, "]");
  const at::Tensor kept =
      row_dropout(labels, options_.class_dropout_prob, "label_dropout", context);
  if (kept.defined()) labels = labels * kept.unsqueeze(1);
  return y_embedder_->forward(labels);
}

Dual DiffusionTransformer::forward(const Dual& x, const Dual& time, const Dual& time2,
                                   const Condition& condition, Context& context) {
  check_inputs(shape_, x, time2, condition);
  Dual early = t_embedder_->forward(time), late;  // `late`: where the decoder's differs
  if (gap_embedder_)
    early = early + gap_embedder_->forward(time2);
  else if (time2.defined() && options_.time_embedding == "encoder_decoder")
    late = t_embedder_->forward(time2);
  else if (time2.defined())
    early = ops::scale(early + t_embedder_->forward(time2), 0.5);
  if (y_embedder_) {
    const Dual y =
        embed_labels(condition, x.value.size(0), early.value.options(), context);
    early = early + y;
    if (late.defined()) late = late + y;
  }
  if (guidance_embedder_) {
    const Dual guidance = guidance_embedder_->forward(condition, x.value.size(0));
    early = early + guidance;
    if (late.defined()) late = late + guidance;
  }
  if (!late.defined()) late = early;
  if (context.taps) (*context.taps)["emb"] = early.value;

  Dual h = x_embedder_->forward(x) + Dual(pos_embed_);
  const std::size_t encoder =
      blocks_.size() - static_cast<std::size_t>(options_.decoder_depth);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const DitBlock& block = *blocks_[i];
    const Dual inputs[] = {h, i < encoder ? early : late};
    h = checkpointed(context, block, inputs,
                     [&block](std::span<const Dual> in, const Context&) {
                       return block.forward(in[0], in[1]);
                     });
    if (context.taps) (*context.taps)["block" + std::to_string(i)] = h.value;
  }
  const Dual out =
      unpatchify(final_layer_->forward(h, late), options_.patch_size, rows_, columns_);
  return out.value.size(1) == out_channels_ ? out : ops::narrow(out, 1, 0, out_channels_);
}

double DiffusionTransformer::multiply_adds() const {
  const int64_t tokens = rows_ * columns_;
  double total = x_embedder_->multiply_adds(tokens) + final_layer_->multiply_adds(tokens);
  for (const auto& block : blocks_) total += block->multiply_adds(tokens);
  if (y_embedder_) total += y_embedder_->multiply_adds();
  if (guidance_embedder_) total += guidance_embedder_->multiply_adds();
  return total + static_cast<double>(shape_.times) * t_embedder_->multiply_adds();
}

struct DitSize {
  const char* name;
  int64_t hidden_size, depth, num_heads;
};
// Table 1 of DiT's paper; patches of 2, 4 or 8 go with each.
constexpr DitSize kDitSizes[] = {
    {"S", 384, 12, 6}, {"B", 768, 12, 12}, {"L", 1024, 24, 16}, {"XL", 1152, 28, 16}};

void read_dit_preset(const Config& c, DitOptions& o) {
  std::vector<std::string> names;
  for (const DitSize& size : kDitSizes)
    for (const char* patch : {"/2", "/4", "/8"})
      names.push_back(std::string(size.name) + patch);
  const std::string preset = c.choice("preset", names, "S/2");
  for (const DitSize& size : kDitSizes)
    if (preset.substr(0, preset.find('/')) == size.name) {
      o.hidden_size = size.hidden_size;
      o.depth = size.depth;
      o.num_heads = size.num_heads;
    }
  o.patch_size = preset.back() - '0';
}

QkNorm read_qk_norm(const Config& c) {
  static const std::string kNorms[] = {"none", "layer", "rms"};
  const std::string norm = c.choice("qk_norm", kNorms, "none");
  return norm == "layer" ? QkNorm::layer : norm == "rms" ? QkNorm::rms : QkNorm::none;
}

// Sizes given one by one go before the preset's.
DitOptions read_dit_options(const Config& c, const NetworkShape& shape, DitOptions o) {
  static const std::string kTimes[] = {"s_gap", "s_t", "encoder_decoder"};
  read_dit_preset(c, o);
  o.hidden_size = c.integer("hidden_size", o.hidden_size, 4, 1 << 16);
  o.depth = c.integer("depth", o.depth, 1, 1000);
  o.num_heads = c.integer("num_heads", o.num_heads, 1, 1024);
  o.patch_size = c.integer("patch_size", o.patch_size, 1, 1024);
  o.mlp_ratio = c.number("mlp_ratio", o.mlp_ratio, 0.25, 64);
  o.learn_sigma = c.boolean("learn_sigma", o.learn_sigma);
  if (shape.label_dim > 0)
    o.class_dropout_prob = c.number("class_dropout_prob", o.class_dropout_prob, 0, 1);
  o.qk_norm = read_qk_norm(c);
  o.frequency_embedding_size =
      c.integer("frequency_embedding_size", o.frequency_embedding_size, 2, 1 << 16);
  o.max_period = c.number("max_period", o.max_period, 1, 1e9);
  if (shape.times == 2)
    o.time_embedding = c.choice("time_embedding", kTimes, o.time_embedding);
  if (shape.times == 2 && o.time_embedding == "encoder_decoder") {
    // The first block sees s, the final layer t.
    const int64_t most = o.depth - 1;
    o.decoder_depth = c.integer(
        "decoder_depth", std::min(std::max<int64_t>(o.depth / 4, 1), most), 0, most);
  }
  return o;
}

}  // namespace

// Time is the index of a diffusion of 1000 steps: 0 .. 999.
std::shared_ptr<Network> make_dit(const Config& options, const NetworkShape& shape) {
  DitOptions defaults;
  defaults.time_scale = 999;
  return std::make_shared<DiffusionTransformer>(read_dit_options(options, shape, defaults),
                                                shape);
}

std::shared_ptr<Network> make_sit(const Config& options, const NetworkShape& shape) {
  DitOptions defaults;
  defaults.keep_sigma = false;
  return std::make_shared<DiffusionTransformer>(read_dit_options(options, shape, defaults),
                                                shape);
}

}  // namespace flowmap
