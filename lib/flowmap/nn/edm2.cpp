// EDM2's magnitude-preserving U-Net (Karras et al. 2024, arXiv 2312.02696, appendix B), and
// its two-time forms, one of which is the flow-map network of Boffi et al. 2025 (arXiv
// 2505.18825) in their published code. A scale of guidance enters beside the times as
// emb_guidance_gain, which starts at zero, times a linear map of its features.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/nn/gradient_checkpointing.h"
#include "flowmap/nn/guidance_embedding.h"
#include "flowmap/nn/inputs.h"
#include "flowmap/nn/mp_layers.h"
#include "flowmap/nn/unet_parts.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

// Names and meanings are EDM2's; what is not says so.
struct Edm2Options {
  int64_t model_channels = 192;
  std::vector<int64_t> channel_mult = {1, 2, 3, 4};
  int64_t channel_mult_noise = 0;  // 0: as wide as the first level
  int64_t channel_mult_emb = 0;    // 0: as wide as the widest level
  int64_t num_blocks = 3;
  std::vector<int64_t> attn_resolutions = {16, 8};  // by height
  double label_balance = 0.5, concat_balance = 0.5;
  double label_dropout = 0;
  MpBlockOptions block;
  // "fourier" (EDM2) or "positional" (the flow-map code).
  std::string embedding_type = "fourier";
  // Two-time networks. The one-time network's weights are there under their own names in
  // all forms but "flow_maps".
  // "s_gap": s as the one-time network has it, plus emb_gap_gain times a linear map of the
  //   features of t - s; the gain starts at zero, so that v_{s,t} starts as the one-time
  //   network of s.
  // "s_t": the mean of the embeddings of s and t through the shared layer.
  // "encoder_decoder": the encoder sees s, the decoder t, by shared layers. These two are
  //   the one-time network on the diagonal always.
  // "flow_maps": the magnitude-preserving sum of linear maps of the features of s and of
  //   t - s (the published flow-map code).
  std::string time_embedding = "s_gap";
};

class Edm2Path : public torch::nn::Module {};  // names its children ("enc", "dec")

class Edm2UNet : public Network {
 public:
  Edm2UNet(Edm2Options options, NetworkShape shape);

  Dual forward(const Dual& x, const Dual& time, const Dual& time2,
               const Condition& condition, Context& context) override;
  void project() override;
  bool second_time_is_gap() const override { return form("s_gap") || form("flow_maps"); }
  // 1 for Fourier features: their frequencies are high enough.
  double default_time_scale() const override {
    return options_.embedding_type == "positional" ? 16 : 1;
  }
  double multiply_adds() const override { return multiply_adds_; }

 private:
  struct Stage {
    std::string name;
    std::shared_ptr<MpBlock> block;
    bool takes_skip = false;
  };

  bool form(const char* name) const {
    return shape_.times == 2 && options_.time_embedding == name;
  }
  void build_embedding();
  void build_encoder();
  void build_decoder();
  std::shared_ptr<MpConv> add_linear(const char* name, int64_t in);
  std::string level_name(int64_t level) const;
  bool attends(int64_t level) const;
  // The embedding of one time, or of both where they are mixed.
  // `guidance`: undefined where the network takes no scale.
  Dual embed(const Dual& time, const Dual& time2, const at::Tensor& labels,
             const Dual& guidance) const;
  at::Tensor read_labels(const Condition& condition, int64_t batch,
                         const Context& context) const;
  Dual decode(Dual x, const Dual& emb, std::vector<Dual>& skips, Context& context) const;

  Edm2Options options_;
  NetworkShape shape_;
  int64_t noise_channels_, emb_channels_, out_channels_;
  int64_t width_ = 0;                   // of the latest layer, while building
  std::vector<int64_t> skip_channels_;  // likewise
  double multiply_adds_ = 0;

  at::Tensor out_gain_, emb_gap_gain_, emb_guidance_gain_;
  std::shared_ptr<TimeEmbedding> emb_fourier_;
  std::shared_ptr<MpConv> emb_noise_, emb_gap_, emb_s_linear_, emb_t_linear_, emb_label_;
  std::shared_ptr<MpConv> emb_guidance_;
  std::shared_ptr<MpConv> in_conv_, out_conv_;
  std::vector<Stage> encoder_, decoder_;
};

Edm2UNet::Edm2UNet(Edm2Options options, NetworkShape shape)
    : options_(std::move(options)), shape_(std::move(shape)) {
  check_unet_shape(shape_, static_cast<int64_t>(options_.channel_mult.size()), 1);
  const std::vector<int64_t>& mult = options_.channel_mult;
  const int64_t m = options_.model_channels;
  noise_channels_ =
      m * (options_.channel_mult_noise ? options_.channel_mult_noise : mult.front());
  emb_channels_ = m * (options_.channel_mult_emb
                           ? options_.channel_mult_emb
                           : *std::max_element(mult.begin(), mult.end()));
  out_channels_ = shape_.out_channels ? shape_.out_channels : shape_.sample[0];
  out_gain_ = register_parameter("out_gain", at::zeros({}, weight_options()));
  build_embedding();
  build_encoder();
  build_decoder();
  out_conv_ = register_module("out_conv",
                              std::make_shared<MpConv>(width_, out_channels_, 3));
  multiply_adds_ += out_conv_->multiply_adds(shape_.sample[1] * shape_.sample[2]);
}

std::shared_ptr<MpConv> Edm2UNet::add_linear(const char* name, int64_t in) {
  auto layer = register_module(name, std::make_shared<MpConv>(in, emb_channels_, 0));
  const bool both = form("encoder_decoder");  // runs once for each half
  multiply_adds_ += layer->multiply_adds() * (both ? 2 : 1);
  return layer;
}

void Edm2UNet::build_embedding() {
  if (options_.embedding_type == "fourier")
    emb_fourier_ = std::make_shared<MpFourier>(noise_channels_);
  else
    emb_fourier_ = std::make_shared<MpPositional>(noise_channels_);
  register_module("emb_fourier", emb_fourier_);
  if (form("flow_maps")) {
    emb_s_linear_ = add_linear("emb_s_linear", noise_channels_);
    emb_t_linear_ = add_linear("emb_t_linear", noise_channels_);
  } else {
    emb_noise_ = add_linear("emb_noise", noise_channels_);
  }
  if (form("s_gap")) {
    emb_gap_gain_ = register_parameter("emb_gap_gain", at::zeros({}, weight_options()));
    emb_gap_ = add_linear("emb_gap", noise_channels_);
  }
  if (shape_.label_dim > 0) emb_label_ = add_linear("emb_label", shape_.label_dim);
  if (shape_.guidance) {
    emb_guidance_gain_ =
        register_parameter("emb_guidance_gain", at::zeros({}, weight_options()));
    emb_guidance_ = register_module(
        "emb_guidance", std::make_shared<MpConv>(kGuidanceFeatures, emb_channels_, 0));
    multiply_adds_ += emb_guidance_->multiply_adds();
  }
}

std::string Edm2UNet::level_name(int64_t level) const {
  const std::string size = std::to_string(shape_.sample[1] >> level);
  return size + "x" + size;
}

bool Edm2UNet::attends(int64_t level) const {
  const auto& at = options_.attn_resolutions;
  return std::find(at.begin(), at.end(), shape_.sample[1] >> level) != at.end();
}

void Edm2UNet::build_encoder() {
  auto enc = register_module("enc", std::make_shared<Edm2Path>());
  width_ = shape_.sample[0] + 1;  // a channel of ones takes the place of biases
  for (std::size_t level = 0; level < options_.channel_mult.size(); ++level) {
    const auto l = static_cast<int64_t>(level);
    const int64_t h = shape_.sample[1] >> l, w = shape_.sample[2] >> l;
    const int64_t out = options_.model_channels * options_.channel_mult[level];
    const auto block = [&](const std::string& name, int64_t out_width, bool attention,
                           bool down) {
      MpBlockOptions o = options_.block;
      o.emb_channels = emb_channels_;
      o.attention = attention;
      if (down) o.resample = Resample::down;
      const std::string full = level_name(l) + name;
      auto made = enc->register_module(
          full, std::make_shared<MpBlock>(width_, out_width, o, "enc." + full));
      multiply_adds_ += made->multiply_adds(h * (down ? 2 : 1), w * (down ? 2 : 1));
      encoder_.push_back({full, made});
      width_ = out_width;
      skip_channels_.push_back(width_);
    };
    if (level == 0) {
      in_conv_ = enc->register_module(level_name(l) + "_conv",
                                      std::make_shared<MpConv>(width_, out, 3));
      multiply_adds_ += in_conv_->multiply_adds(h * w);
      width_ = out;
      skip_channels_.push_back(width_);
    } else {
      block("_down", width_, false, true);
    }
    for (int64_t i = 0; i < options_.num_blocks; ++i)
      block("_block" + std::to_string(i), out, attends(l), false);
  }
}

void Edm2UNet::build_decoder() {
  auto dec = register_module("dec", std::make_shared<Edm2Path>());
  const int64_t levels = static_cast<int64_t>(options_.channel_mult.size());
  for (int64_t level = levels - 1; level >= 0; --level) {
    const int64_t h = shape_.sample[1] >> level, w = shape_.sample[2] >> level;
    const auto block = [&](const std::string& name, int64_t in, int64_t out,
                           bool attention, bool up, bool skip) {
      MpBlockOptions o = options_.block;
      o.emb_channels = emb_channels_;
      o.encoder = false;
      o.attention = attention;
      if (up) o.resample = Resample::up;
      const std::string full = level_name(level) + name;
      auto made = dec->register_module(
          full, std::make_shared<MpBlock>(in, out, o, "dec." + full));
      multiply_adds_ += made->multiply_adds(up ? h / 2 : h, up ? w / 2 : w);
      decoder_.push_back({full, made, skip});
      width_ = out;
    };
    if (level == levels - 1) {
      block("_in0", width_, width_, true, false, false);
      block("_in1", width_, width_, false, false, false);
    } else {
      block("_up", width_, width_, false, true, false);
    }
    const int64_t out =
        options_.model_channels * options_.channel_mult[static_cast<std::size_t>(level)];
    for (int64_t i = 0; i <= options_.num_blocks; ++i) {
      const int64_t in = width_ + skip_channels_.back();
      skip_channels_.pop_back();
      block("_block" + std::to_string(i), in, out, attends(level), false, true);
    }
  }
}

at::Tensor Edm2UNet::read_labels(const Condition& condition, int64_t batch,
                                 const Context& context) const {
  if (!emb_label_) return {};
  const auto options = emb_label_->weight.options().requires_grad(false);
  at::Tensor labels = condition.class_labels;
  labels = labels.defined() ? labels.to(options)
                            : at::zeros({batch, shape_.label_dim}, options);
  FM_CHECK(labels.dim() == 2 && labels.size(1) == shape_.label_dim,
           "class labels have shape ", labels.sizes(), "; the network expects [", batch,
           ", ", shape_.label_dim, "]");
  const at::Tensor kept =
      row_dropout(labels, options_.label_dropout, "label_dropout", context);
  if (kept.defined()) labels = labels * kept.unsqueeze(1);
  return labels * std::sqrt(static_cast<double>(shape_.label_dim));
}

Dual Edm2UNet::embed(const Dual& time, const Dual& time2, const at::Tensor& labels,
                     const Dual& guidance) const {
  Dual features = emb_fourier_->forward(time), emb;
  if (emb_s_linear_) {
    emb = mp_sum(emb_s_linear_->forward(features),
                 emb_t_linear_->forward(emb_fourier_->forward(time2)), 0.5);
  } else {
    if (form("s_t"))
      features = ops::scale(features + emb_fourier_->forward(time2), 0.5);
    emb = emb_noise_->forward(features);
    if (emb_gap_) {
      const Dual gap = emb_fourier_->forward(time2);
      emb = emb + emb_gap_->forward(gap, emb_gap_gain_);
    }
  }
  if (guidance.defined()) emb = emb + guidance;
  if (emb_label_)
    emb = mp_sum(emb, emb_label_->forward(Dual(labels)), options_.label_balance);
  return mp_silu(emb);
}

Dual Edm2UNet::decode(Dual x, const Dual& emb, std::vector<Dual>& skips,
                      Context& context) const {
  for (const Stage& stage : decoder_) {
    const MpBlock& block = *stage.block;
    std::vector<Dual> inputs = {x, emb};
    if (stage.takes_skip) {
      inputs.push_back(skips.back());
      skips.pop_back();
    }
    const double balance = options_.concat_balance;
    x = checkpointed(context, block, inputs,
                     [&block, balance](std::span<const Dual> in, const Context& c) {
                       const Dual joined =
                           in.size() == 3 ? mp_cat(in[0], in[2], balance) : in[0];
                       return block.forward(joined, in[1], c);
                     });
    if (context.taps) (*context.taps)["dec." + stage.name] = x.value;
  }
  return x;
}

Dual Edm2UNet::forward(const Dual& input, const Dual& time, const Dual& time2,
                       const Condition& condition, Context& context) {
  check_inputs(shape_, input, time2, condition);
  const at::Tensor labels = read_labels(condition, input.value.size(0), context);
  const bool halves = form("encoder_decoder");
  Dual guidance;
  if (emb_guidance_) {
    const at::Tensor features =
        guidance_features(condition, input.value.size(0), emb_guidance_->weight);
    guidance = emb_guidance_->forward(Dual(features), emb_guidance_gain_);
  }
  const Dual emb = embed(time, halves ? Dual() : time2, labels, guidance);
  const Dual dec_emb = halves ? embed(time2, {}, labels, guidance) : emb;
  if (context.taps) (*context.taps)["emb"] = emb.value;

  const std::array<Dual, 2> with_ones = {
      input, Dual(at::ones_like(input.value.narrow(1, 0, 1)))};
  Dual x = in_conv_->forward(ops::cat(with_ones, 1));
  if (context.taps) (*context.taps)["enc." + level_name(0) + "_conv"] = x.value;
  std::vector<Dual> skips = {x};
  for (const Stage& stage : encoder_) {
    const MpBlock& block = *stage.block;
    const std::array<Dual, 2> inputs = {x, emb};
    x = checkpointed(context, block, inputs,
                     [&block](std::span<const Dual> in, const Context& c) {
                       return block.forward(in[0], in[1], c);
                     });
    skips.push_back(x);
    if (context.taps) (*context.taps)["enc." + stage.name] = x.value;
  }
  return out_conv_->forward(decode(x, dec_emb, skips, context), out_gain_);
}

void Edm2UNet::project() {
  for (const auto& module : modules(/*include_self=*/false))
    if (auto* conv = dynamic_cast<MpConv*>(module.get())) conv->project();
}

// "preset" gives model_channels; a width given beside it wins.
int64_t read_edm2_width(const Config& c, int64_t fallback) {
  struct Preset {
    const char* name;
    int64_t channels;
  };
  static constexpr Preset kPresets[] = {{"XXS", 64}, {"XS", 128}, {"S", 192},  {"M", 256},
                                        {"L", 320},  {"XL", 384}, {"XXL", 448}};
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.emplace_back(preset.name);
  if (c.has("preset")) {
    const std::string name = c.choice("preset", names);
    for (const Preset& preset : kPresets)
      if (name == preset.name) fallback = preset.channels;
  }
  return c.integer("model_channels", fallback, 2, 1 << 16);
}

Edm2Options read_edm2_options(const Config& c, const NetworkShape& shape) {
  static const std::string kTimes[] = {"s_gap", "s_t", "encoder_decoder", "flow_maps"};
  static const std::string kEmbeddings[] = {"fourier", "positional"};
  Edm2Options o;
  o.model_channels = read_edm2_width(c, o.model_channels);
  o.channel_mult = read_channel_mult(c, o.channel_mult);
  o.channel_mult_noise = c.integer("channel_mult_noise", o.channel_mult_noise, 1, 64);
  o.channel_mult_emb = c.integer("channel_mult_emb", o.channel_mult_emb, 1, 64);
  o.num_blocks = c.integer("num_blocks", o.num_blocks, 1, 64);
  o.attn_resolutions = c.integers("attn_resolutions", o.attn_resolutions);
  if (shape.label_dim > 0) {
    o.label_balance = c.number("label_balance", o.label_balance, 0, 1);
    o.label_dropout = c.number("label_dropout", o.label_dropout, 0, 1);
  }
  o.concat_balance = c.number("concat_balance", o.concat_balance, 0, 1);
  MpBlockOptions& b = o.block;
  b.channels_per_head = c.integer("channels_per_head", b.channels_per_head, 1, 1 << 16);
  b.dropout = c.number("dropout", b.dropout, 0, 0.99);
  b.res_balance = c.number("res_balance", b.res_balance, 0, 1);
  b.attn_balance = c.number("attn_balance", b.attn_balance, 0, 1);
  b.clip_act = c.number("clip_act", b.clip_act, 0, 1e30);
  b.resample_filter = c.numbers("resample_filter", b.resample_filter);
  FM_CHECK_USAGE(!b.resample_filter.empty() && b.resample_filter.size() % 2 == 0,
                 c.where("resample_filter"),
                 ": network.resample_filter must have an even number of taps");
  if (shape.times == 2)
    o.time_embedding = c.choice("time_embedding", kTimes, o.time_embedding);
  const bool published = shape.times == 2 && o.time_embedding == "flow_maps";
  o.embedding_type = c.choice("embedding_type", kEmbeddings,
                              published ? "positional" : o.embedding_type);
  return o;
}

}  // namespace

std::shared_ptr<Network> make_edm2(const Config& options, const NetworkShape& shape) {
  return std::make_shared<Edm2UNet>(read_edm2_options(options, shape), shape);
}

}  // namespace flowmap
