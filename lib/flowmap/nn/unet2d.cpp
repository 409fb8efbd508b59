// The U-Net of Ho et al. 2020 (DDPM, arXiv 2006.11239) as diffusers' UNet2DModel has it,
// under its parameter names and the option names of its config.json. Two times as in the
// other U-Nets (nn/unet_parts.h); the gap enters through gap_embedding, a guidance scale
// through guidance_embedding.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/network.h"
#include "flowmap/nn/gradient_checkpointing.h"
#include "flowmap/nn/guidance_embedding.h"
#include "flowmap/nn/inputs.h"
#include "flowmap/nn/layers.h"
#include "flowmap/nn/unet2d_blocks.h"
#include "flowmap/nn/unet_parts.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

// Defaults are diffusers', except attention_head_dim, where nothing means null there.
struct UNet2dOptions {
  std::vector<int64_t> block_out_channels = {224, 448, 672, 896};
  int64_t layers_per_block = 2;
  std::vector<bool> down_attends = {false, true, true, true};
  std::vector<bool> up_attends = {true, true, true, false};
  bool mid_block = true, add_attention = true;
  int64_t attention_head_dim = 0;  // channels a head; 0: one head
  int64_t norm_num_groups = 32;
  int64_t attn_norm_num_groups = 0;  // of the middle; 0: see mid_groups()
  double norm_eps = 1e-5;
  bool flip_sin_to_cos = true;
  int64_t freq_shift = 0;
  int64_t time_embedding_dim = 0;  // 0: four times the first width
  int64_t downsample_padding = 1;  // 0: one row and column of zeros after the last
  double mid_block_scale_factor = 1;
  bool scale_shift = false;
  bool center_input_sample = false;
  int64_t out_channels = 0;      // 0: as the shape says
  int64_t num_class_embeds = 0;  // label_dim, or one more, whose last row is "no class"
  double dropout = 0, label_dropout = 0;
  std::string time_embedding = "s_gap";
};

class UNet2d : public Network {
 public:
  UNet2d(UNet2dOptions options, NetworkShape shape)
      : options_(std::move(options)), shape_(std::move(shape)) {
    check();
    block_.emb_channels = emb_channels();
    block_.groups = options_.norm_num_groups;
    block_.eps = options_.norm_eps;
    block_.scale_shift = options_.scale_shift;
    block_.dropout = options_.dropout;
    // In diffusers' order.
    conv_in_ = conv(*this, "conv_in", shape_.sample[0], width_of(0), 0);
    build_embeddings();
    build_down();
    build_up();
    if (options_.mid_block) build_mid();
    conv_norm_out_ = register_module(
        "conv_norm_out", std::make_shared<GroupNorm>(width_of(0), options_.norm_eps,
                                                     options_.norm_num_groups, 1));
    conv_out_ = conv(*this, "conv_out", width_of(0), out_channels(), 0);
    if (shape_.times == 2 && options_.time_embedding == "s_gap") {
      gap_embedding_ = register_module(
          "gap_embedding", std::make_shared<UNet2dTimeMlp>(
                               width_of(0), emb_channels(), Init{unet2d_init().mode, 0, 0}));
      multiply_adds_ += gap_embedding_->multiply_adds();
    }
    if (shape_.guidance) {
      guidance_embedding_ = register_module(
          "guidance_embedding", std::make_shared<GuidanceEmbedding>(emb_channels()));
      multiply_adds_ += guidance_embedding_->multiply_adds();
    }
  }

  Dual forward(const Dual& input, const Dual& time, const Dual& time2,
               const Condition& condition, Context& context) override;

  double multiply_adds() const override { return multiply_adds_; }
  bool second_time_is_gap() const override { return options_.time_embedding == "s_gap"; }
  double default_time_scale() const override { return 999; }

 private:
  struct Stage {
    std::string tap;
    std::shared_ptr<UNet2dResnet> resnet;
    std::shared_ptr<UNet2dAttention> attention;  // or none
  };
  struct Level {
    std::vector<Stage> stages;
    std::string tap;  // of the resampling
    std::shared_ptr<Conv2d> resample;  // or none
  };

  void check() const;
  void build_embeddings();
  void build_down();
  void build_up();
  void build_mid();
  UNetEmbeddings embed(const Dual& time, const Dual& time2, const Condition& condition,
                       const Context& context) const;
  Dual features(const Dual& time) const;
  Dual embed_labels(const Condition& condition, const at::Tensor& like,
                    const Context& context) const;
  Dual downsample(const Conv2d& layer, const Dual& x) const;
  static Dual run(const Stage& stage, const Dual& x, const Dual& emb, const Dual& skip,
                  const Context& context);

  // A convolution of three, counted at the resolution of `level`.
  std::shared_ptr<Conv2d> conv(torch::nn::Module& owner, const std::string& name,
                               int64_t in, int64_t out, int64_t level) {
    Conv2dOptions o;
    o.init = unet2d_init();
    auto layer = owner.register_module(name, std::make_shared<Conv2d>(in, out, o));
    multiply_adds_ += layer->multiply_adds(height(level), width(level));
    return layer;
  }
  std::shared_ptr<UNet2dResnet> resnet(torch::nn::Module& owner, const std::string& path,
                                       int64_t index, int64_t in, int64_t out,
                                       int64_t level, const UNet2dBlockOptions& options) {
    const std::string name = std::to_string(index);
    auto block = owner.register_module(
        name, std::make_shared<UNet2dResnet>(in, out, options, path + ".resnets." + name));
    multiply_adds_ += block->multiply_adds(height(level), width(level));
    return block;
  }
  std::shared_ptr<UNet2dAttention> attention(torch::nn::Module& owner, int64_t index,
                                             int64_t channels, int64_t level,
                                             int64_t groups, double divisor) {
    const int64_t head =
        options_.attention_head_dim ? options_.attention_head_dim : channels;
    FM_CHECK_USAGE(channels % head == 0, "network.attention_head_dim=", head,
                   " does not divide the ", channels, " channels of a level with "
                   "attention; null is one head");
    auto block = owner.register_module(
        std::to_string(index), std::make_shared<UNet2dAttention>(
                                   channels, head, groups, options_.norm_eps, divisor));
    multiply_adds_ += block->multiply_adds(height(level), width(level));
    return block;
  }

  int64_t levels() const {
    return static_cast<int64_t>(options_.block_out_channels.size());
  }
  int64_t width_of(int64_t level) const {
    return options_.block_out_channels[static_cast<std::size_t>(level)];
  }
  int64_t emb_channels() const {
    return options_.time_embedding_dim ? options_.time_embedding_dim : 4 * width_of(0);
  }
  int64_t out_channels() const {
    if (options_.out_channels) return options_.out_channels;
    return shape_.out_channels ? shape_.out_channels : shape_.sample[0];
  }
  int64_t mid_groups() const {
    if (options_.attn_norm_num_groups) return options_.attn_norm_num_groups;
    return options_.scale_shift ? 0 : options_.norm_num_groups;
  }
  int64_t height(int64_t level) const { return shape_.sample[1] >> level; }
  int64_t width(int64_t level) const { return shape_.sample[2] >> level; }
  std::string level_name(int64_t level) const {
    return std::to_string(height(level)) + "x" + std::to_string(width(level));
  }

  UNet2dOptions options_;
  NetworkShape shape_;
  UNet2dBlockOptions block_;
  std::vector<int64_t> skip_channels_;  // while building
  double multiply_adds_ = 0;

  std::unique_ptr<PositionalEmbedding> time_proj_;
  std::shared_ptr<UNet2dTimeMlp> time_embedding_, gap_embedding_;
  std::shared_ptr<UNet2dLabels> class_embedding_;
  std::shared_ptr<GuidanceEmbedding> guidance_embedding_;
  std::shared_ptr<Conv2d> conv_in_, conv_out_;
  std::shared_ptr<GroupNorm> conv_norm_out_;
  std::vector<Level> down_, up_;
  std::shared_ptr<UNet2dResnet> mid_first_, mid_last_;
  std::shared_ptr<UNet2dAttention> mid_attention_;
};

void UNet2d::check() const {
  const UNet2dOptions& o = options_;
  const auto count = o.block_out_channels.size();
  FM_CHECK_USAGE(count > 0 && o.down_attends.size() == count && o.up_attends.size() == count,
                 "network.block_out_channels has ", count, " levels, down_block_types ",
                 o.down_attends.size(), " and up_block_types ", o.up_attends.size(),
                 "; the three must agree");
  check_unet_shape(shape_, levels(), 1, "block_out_channels");
  for (const int64_t channels : o.block_out_channels)
    FM_CHECK_USAGE(channels > 0 && channels % o.norm_num_groups == 0,
                   "network.norm_num_groups=", o.norm_num_groups, " does not divide the ",
                   channels, " channels of network.block_out_channels");
  if (o.attn_norm_num_groups)
    FM_CHECK_USAGE(o.block_out_channels.back() % o.attn_norm_num_groups == 0,
                   "network.attn_norm_num_groups=", o.attn_norm_num_groups,
                   " does not divide the ", o.block_out_channels.back(),
                   " channels of the middle");
  FM_CHECK_USAGE(!o.out_channels || !shape_.out_channels ||
                     o.out_channels == shape_.out_channels,
                 "network.out_channels=", o.out_channels, ": this model needs ",
                 shape_.out_channels, "; leave the option out");
  if (shape_.label_dim > 0)
    FM_CHECK_USAGE(o.num_class_embeds == shape_.label_dim ||
                       o.num_class_embeds == shape_.label_dim + 1,
                   "network.num_class_embeds=", o.num_class_embeds, ": label_dim=",
                   shape_.label_dim, " takes that many, or one more for no class");
  else
    FM_CHECK_USAGE(o.num_class_embeds == 0, "network.num_class_embeds=",
                   o.num_class_embeds, ": there are no labels; give label_dim");
}

void UNet2d::build_embeddings() {
  time_proj_ = std::make_unique<PositionalEmbedding>(width_of(0), options_.freq_shift == 1);
  time_embedding_ = register_module(
      "time_embedding", std::make_shared<UNet2dTimeMlp>(width_of(0), emb_channels()));
  const bool twice = shape_.times == 2 && options_.time_embedding == "encoder_decoder";
  multiply_adds_ += time_embedding_->multiply_adds() * (twice ? 2 : 1);
  if (shape_.label_dim == 0) return;
  class_embedding_ = register_module(
      "class_embedding",
      std::make_shared<UNet2dLabels>(options_.num_class_embeds, emb_channels()));
  multiply_adds_ += class_embedding_->multiply_adds();
}

void UNet2d::build_down() {
  auto blocks = register_module("down_blocks", std::make_shared<UNet2dPath>());
  int64_t channels = width_of(0);
  skip_channels_ = {channels};
  for (int64_t level = 0; level < levels(); ++level) {
    const std::string index = std::to_string(level);
    auto owner = blocks->register_module(index, std::make_shared<UNet2dPath>());
    std::shared_ptr<UNet2dPath> attentions;
    if (options_.down_attends[static_cast<std::size_t>(level)])
      attentions = owner->register_module("attentions", std::make_shared<UNet2dPath>());
    auto resnets = owner->register_module("resnets", std::make_shared<UNet2dPath>());
    Level& built = down_.emplace_back();
    for (int64_t i = 0; i < options_.layers_per_block; ++i) {
      Stage stage;
      stage.tap = "enc." + level_name(level) + "_block" + std::to_string(i);
      stage.resnet = resnet(*resnets, "down_blocks." + index, i, channels,
                            width_of(level), level, block_);
      channels = width_of(level);
      if (attentions)
        stage.attention =
            attention(*attentions, i, channels, level, options_.norm_num_groups, 1);
      built.stages.push_back(std::move(stage));
      skip_channels_.push_back(channels);
    }
    if (level + 1 == levels()) break;
    auto down = owner->register_module("downsamplers", std::make_shared<UNet2dPath>())
                    ->register_module("0", std::make_shared<UNet2dPath>());
    built.resample = conv(*down, "conv", channels, channels, level + 1);
    built.tap = "enc." + level_name(level + 1) + "_down";
    skip_channels_.push_back(channels);
  }
}

void UNet2d::build_up() {
  auto blocks = register_module("up_blocks", std::make_shared<UNet2dPath>());
  int64_t channels = width_of(levels() - 1);
  for (int64_t i = 0; i < levels(); ++i) {
    const int64_t level = levels() - 1 - i;
    const std::string index = std::to_string(i);
    auto owner = blocks->register_module(index, std::make_shared<UNet2dPath>());
    std::shared_ptr<UNet2dPath> attentions;
    if (options_.up_attends[static_cast<std::size_t>(i)])
      attentions = owner->register_module("attentions", std::make_shared<UNet2dPath>());
    auto resnets = owner->register_module("resnets", std::make_shared<UNet2dPath>());
    Level& built = up_.emplace_back();
    for (int64_t j = 0; j <= options_.layers_per_block; ++j) {
      Stage stage;
      stage.tap = "dec." + level_name(level) + "_block" + std::to_string(j);
      stage.resnet = resnet(*resnets, "up_blocks." + index, j,
                            channels + skip_channels_.back(), width_of(level), level,
                            block_);
      skip_channels_.pop_back();
      channels = width_of(level);
      if (attentions)
        stage.attention =
            attention(*attentions, j, channels, level, options_.norm_num_groups, 1);
      built.stages.push_back(std::move(stage));
    }
    if (level == 0) break;
    auto up = owner->register_module("upsamplers", std::make_shared<UNet2dPath>())
                  ->register_module("0", std::make_shared<UNet2dPath>());
    built.resample = conv(*up, "conv", channels, channels, level - 1);
    built.tap = "dec." + level_name(level - 1) + "_up";
  }
}

void UNet2d::build_mid() {
  auto owner = register_module("mid_block", std::make_shared<UNet2dPath>());
  const int64_t level = levels() - 1, channels = width_of(level);
  UNet2dBlockOptions options = block_;
  options.output_divisor = options_.mid_block_scale_factor;
  if (options_.add_attention) {
    auto attentions = owner->register_module("attentions", std::make_shared<UNet2dPath>());
    mid_attention_ = attention(*attentions, 0, channels, level, mid_groups(),
                               options_.mid_block_scale_factor);
  }
  auto resnets = owner->register_module("resnets", std::make_shared<UNet2dPath>());
  mid_first_ = resnet(*resnets, "mid_block", 0, channels, channels, level, options);
  mid_last_ = resnet(*resnets, "mid_block", 1, channels, channels, level, options);
}

Dual UNet2d::features(const Dual& time) const {
  const Dual e = time_proj_->forward(time);
  if (options_.flip_sin_to_cos) return e;
  const int64_t half = width_of(0) / 2;
  const std::array<Dual, 2> swapped = {ops::narrow(e, 1, half, half),
                                       ops::narrow(e, 1, 0, half)};
  return ops::cat(swapped, 1);
}

Dual UNet2d::embed_labels(const Condition& condition, const at::Tensor& like,
                          const Context& context) const {
  if (!class_embedding_) return {};
  const int64_t batch = like.size(0);
  at::Tensor labels = condition.class_labels;
  labels = labels.defined() ? labels.to(like.options())
                            : at::zeros({batch, shape_.label_dim}, like.options());
  FM_CHECK(labels.dim() == 2 && labels.size(1) == shape_.label_dim,
           "class labels have shape ", labels.sizes(), "; the network expects [", batch,
           ", ", shape_.label_dim, "]");
  const at::Tensor kept =
      row_dropout(labels, options_.label_dropout, "label_dropout", context);
  if (kept.defined()) labels = labels * kept.unsqueeze(1);
  if (options_.num_class_embeds > shape_.label_dim) {
    const at::Tensor none = labels.eq(0).all(1, /*keepdim=*/true).to(labels.scalar_type());
    labels = at::cat({labels, none}, 1);
  }
  return Dual(class_embedding_->forward(labels));
}

UNetEmbeddings UNet2d::embed(const Dual& time, const Dual& time2,
                             const Condition& condition, const Context& context) const {
  Dual first = features(time);
  const Dual second = shape_.times == 2 ? features(time2) : Dual();
  if (shape_.times == 2 && options_.time_embedding == "s_t")
    first = ops::scale(first + second, 0.5);
  const Dual labels = embed_labels(condition, first.value, context);
  Dual guidance;
  if (guidance_embedding_)
    guidance = guidance_embedding_->forward(condition, first.value.size(0));
  // Every block takes the SiLU of it.
  const auto mapped = [&](const Dual& e) {
    Dual emb = time_embedding_->forward(e);
    if (gap_embedding_) emb = emb + gap_embedding_->forward(second);
    if (labels.defined()) emb = emb + labels;
    return ops::silu(guidance.defined() ? emb + guidance : emb);
  };
  const Dual emb = mapped(first);
  const bool twice = shape_.times == 2 && options_.time_embedding == "encoder_decoder";
  return {emb, twice ? mapped(second) : emb};
}

Dual UNet2d::downsample(const Conv2d& layer, const Dual& x) const {
  if (options_.downsample_padding == 1)
    return ops::conv2d(x, layer.weight, layer.bias, 1, 2);
  const std::array<int64_t, 4> after = {0, 1, 0, 1};
  return ops::conv2d(ops::pad(x, after), layer.weight, layer.bias, 0, 2);
}

Dual UNet2d::run(const Stage& stage, const Dual& x, const Dual& emb, const Dual& skip,
                 const Context& context) {
  std::vector<Dual> inputs = {emb, x};
  if (skip.defined()) inputs.push_back(skip);
  const UNet2dResnet& resnet = *stage.resnet;
  // Joined inside: what is kept are the maps themselves, which other blocks keep too.
  const Dual y = checkpointed(
      context, resnet, inputs,
      [&resnet](std::span<const Dual> in, const Context& inner) {
        const auto maps = in.subspan(1);
        return resnet.forward(maps.size() > 1 ? ops::cat(maps, 1) : maps[0], in[0], inner);
      });
  if (!stage.attention) return y;
  const UNet2dAttention& attention = *stage.attention;
  return checkpointed(context, attention, std::span<const Dual>(&y, 1),
                      [&attention](std::span<const Dual> in, const Context&) {
                        return attention.forward(in[0]);
                      });
}

Dual UNet2d::forward(const Dual& input, const Dual& time, const Dual& time2,
                     const Condition& condition, Context& context) {
  check_inputs(shape_, input, time2, condition);
  const UNetEmbeddings emb = embed(time, time2, condition, context);
  const auto tap = [&](const std::string& name, const Dual& a) {
    if (context.taps) (*context.taps)[name] = a.value;
  };
  tap("emb", emb.encoder);
  Dual x = conv_in_->forward(
      options_.center_input_sample ? ops::add_scalar(ops::scale(input, 2), -1) : input);
  tap("enc." + level_name(0) + "_conv", x);
  std::vector<Dual> skips = {x};
  for (const Level& level : down_) {
    for (const Stage& stage : level.stages) {
      x = run(stage, x, emb.encoder, {}, context);
      tap(stage.tap, x);
      skips.push_back(x);
    }
    if (!level.resample) continue;
    x = downsample(*level.resample, x);
    tap(level.tap, x);
    skips.push_back(x);
  }
  if (mid_first_) {
    x = run({"", mid_first_, mid_attention_}, x, emb.decoder, {}, context);
    x = run({"", mid_last_, nullptr}, x, emb.decoder, {}, context);
    tap("mid", x);
  }
  for (const Level& level : up_) {
    for (const Stage& stage : level.stages) {
      const Dual skip = std::move(skips.back());
      skips.pop_back();
      x = run(stage, x, emb.decoder, skip, context);
      tap(stage.tap, x);
    }
    if (!level.resample) continue;
    x = level.resample->forward(ops::upsample_nearest(x, 2));
    tap(level.tap, x);
  }
  return conv_out_->forward(ops::silu(conv_norm_out_->forward(x)));
}

// Which levels attend, from diffusers' names of their blocks.
std::vector<bool> read_unet2d_blocks(const Config& c, const std::string& key,
                                     const std::string& plain, const std::string& attends,
                                     const std::vector<bool>& fallback) {
  std::vector<std::string> names;
  for (const bool a : fallback) names.push_back(a ? attends : plain);
  std::vector<bool> result;
  for (const std::string& name : c.strings(key, names)) {
    FM_CHECK_USAGE(name == plain || name == attends, c.where(key), ": network.", key,
                   ": '", name, "' is not here; ", plain, " or ", attends);
    result.push_back(name == attends);
  }
  return result;
}

}  // namespace

std::shared_ptr<Network> make_unet2d(const Config& c, const NetworkShape& shape) {
  UNet2dOptions o;
  constexpr int64_t kMost = 1 << 20;
  o.block_out_channels = c.integers("block_out_channels", o.block_out_channels);
  o.layers_per_block = c.integer("layers_per_block", o.layers_per_block, 1, 64);
  o.down_attends = read_unet2d_blocks(c, "down_block_types", "DownBlock2D",
                                      "AttnDownBlock2D", o.down_attends);
  o.up_attends = read_unet2d_blocks(c, "up_block_types", "UpBlock2D", "AttnUpBlock2D",
                                    o.up_attends);
  // Each has one that is written here; asking for another says so.
  const auto only = [&](const char* key, std::vector<std::string> allowed) {
    return c.choice(key, allowed, allowed[0]);
  };
  o.mid_block = only("mid_block_type", {"UNetMidBlock2D", "none"}) != "none";
  only("act_fn", {"silu", "swish"});
  only("downsample_type", {"conv"});
  only("upsample_type", {"conv"});
  only("time_embedding_type", {"positional"});
  o.scale_shift =
      only("resnet_time_scale_shift", {"default", "scale_shift"}) == "scale_shift";
  o.add_attention = c.boolean("add_attention", o.add_attention);
  o.attention_head_dim = c.integer("attention_head_dim", o.attention_head_dim, 1, kMost);
  o.norm_num_groups = c.integer("norm_num_groups", o.norm_num_groups, 1, kMost);
  o.attn_norm_num_groups =
      c.integer("attn_norm_num_groups", o.attn_norm_num_groups, 1, kMost);
  o.norm_eps = c.number("norm_eps", o.norm_eps, 0, 1);
  o.flip_sin_to_cos = c.boolean("flip_sin_to_cos", o.flip_sin_to_cos);
  o.freq_shift = c.integer("freq_shift", o.freq_shift, 0, 1);
  o.time_embedding_dim = c.integer("time_embedding_dim", o.time_embedding_dim, 1, kMost);
  o.downsample_padding = c.integer("downsample_padding", o.downsample_padding, 0, 1);
  o.mid_block_scale_factor =
      c.number("mid_block_scale_factor", o.mid_block_scale_factor, 1e-6, 1e6);
  o.center_input_sample = c.boolean("center_input_sample", o.center_input_sample);
  o.out_channels = c.integer("out_channels", o.out_channels, 1, kMost);
  o.num_class_embeds = c.integer("num_class_embeds", shape.label_dim, 1, kMost);
  o.dropout = c.number("dropout", o.dropout, 0, 0.99);
  if (shape.label_dim > 0)
    o.label_dropout = c.number("label_dropout", o.label_dropout, 0, 1);
  o.time_embedding = read_time_embedding(c, shape);
  return std::make_shared<UNet2d>(std::move(o), shape);
}

}  // namespace flowmap
