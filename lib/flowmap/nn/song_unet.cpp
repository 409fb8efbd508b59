#include "flowmap/nn/song_unet.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <numbers>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

constexpr double kSongEps = 1e-6;
const Init kSongInit = {InitMode::xavier_uniform, 1, 0};
const Init kSongInitZero = {InitMode::xavier_uniform, 1e-5, 0};
const Init kSongInitAttention = {InitMode::xavier_uniform, std::sqrt(0.2), 0};

// A module that only names its children ("enc", "dec").
class SongPath : public torch::nn::Module {};

void check_song_shape(const SongUNetOptions& o, const NetworkShape& shape) {
  FM_CHECK_USAGE(shape.sample.size() == 3,
                 "this U-Net takes images {C, H, W}; for points use network.type=mlp");
  FM_CHECK_USAGE(shape.times == 1 || shape.times == 2, "a network has 1 or 2 times, not ",
                 shape.times);
  FM_CHECK_USAGE(!o.channel_mult.empty(), "network.channel_mult is empty");
  const int64_t h = shape.sample[1], w = shape.sample[2];
  FM_CHECK_USAGE(h % o.patch == 0 && w % o.patch == 0, "network.patch=", o.patch,
                 " does not divide the image of ", h, "x", w);
  const int64_t levels = static_cast<int64_t>(o.channel_mult.size());
  const int64_t unit = int64_t{1} << (levels - 1);
  FM_CHECK_USAGE((h / o.patch) % unit == 0 && (w / o.patch) % unit == 0, levels,
                 " levels halve ", h / o.patch, "x", w / o.patch, " pixels ", levels - 1,
                 " times, which meets an odd size; give network.channel_mult fewer levels "
                 "or use images whose sides are multiples of ", unit * o.patch);
}

}  // namespace

SongUNet::SongUNet(SongUNetOptions options, NetworkShape shape)
    : options_(std::move(options)), shape_(std::move(shape)) {
  check_song_shape(options_, shape_);
  const int64_t area = options_.patch * options_.patch;
  in_channels_ = shape_.sample[0] * area;
  out_channels_ = (shape_.out_channels ? shape_.out_channels : shape_.sample[0]) * area;
  height_ = shape_.sample[1] / options_.patch;
  width_ = shape_.sample[2] / options_.patch;
  emb_channels_ = options_.model_channels * options_.channel_mult_emb;
  noise_channels_ = options_.model_channels * options_.channel_mult_noise;
  build_mapping();
  build_encoder();
  build_decoder();
}

void SongUNet::build_mapping() {
  const auto linear = [&](const char* name, int64_t in, int64_t out, Init init,
                          bool bias = true) {
    auto layer = register_module(name, std::make_shared<Linear>(in, out, init, bias));
    multiply_adds_ += layer->multiply_adds();
    return layer;
  };
  if (options_.embedding_type == "positional")
    map_noise_ = std::make_shared<PositionalEmbedding>(noise_channels_, true);
  else
    map_noise_ = std::make_shared<FourierEmbedding>(noise_channels_,
                                                    options_.fourier_scale);
  register_module("map_noise", map_noise_);
  if (shape_.label_dim > 0)
    map_label_ = linear("map_label", shape_.label_dim, noise_channels_, kSongInit);
  if (options_.augment_dim > 0)
    map_augment_ =
        linear("map_augment", options_.augment_dim, noise_channels_, kSongInit, false);
  map_layer0_ = linear("map_layer0", noise_channels_, emb_channels_, kSongInit);
  map_layer1_ = linear("map_layer1", emb_channels_, emb_channels_, kSongInit);
  if (shape_.times == 2 && second_time_is_gap()) {
    map2_layer0_ = linear("map2_layer0", noise_channels_, emb_channels_, kSongInit);
    map2_layer1_ = linear("map2_layer1", emb_channels_, emb_channels_,
                          {InitMode::xavier_uniform, 0, 0});
  }
}

std::string SongUNet::level_name(int64_t level) const {
  const std::string size = std::to_string(height_ >> level);
  return size + "x" + size;
}

bool SongUNet::attends(int64_t level) const {
  const auto& at = options_.attn_resolutions;
  return std::find(at.begin(), at.end(), height_ >> level) != at.end();
}

std::shared_ptr<Conv2d> SongUNet::add_conv(std::vector<Stage>& path,
                                           torch::nn::Module& owner, Part part,
                                           const std::string& name, int64_t in,
                                           int64_t out, Conv2dOptions options) {
  options.resample_filter = options_.resample_filter;
  auto conv = owner.register_module(
      name, std::make_shared<Conv2d>(in, out, std::move(options)));
  path.push_back({part, name, conv, nullptr, nullptr});
  return conv;
}

std::shared_ptr<UNetBlock> SongUNet::add_block(std::vector<Stage>& path,
                                               torch::nn::Module& owner,
                                               const std::string& side,
                                               const std::string& name, int64_t in,
                                               int64_t out, bool attention, bool up,
                                               bool down) {
  UNetBlockOptions o;
  o.emb_channels = emb_channels_;
  o.up = up;
  o.down = down;
  o.attention = attention;
  o.num_heads = options_.num_heads;
  o.dropout = options_.dropout;
  o.skip_scale = options_.skip_scale;
  o.eps = kSongEps;
  o.resample_filter = options_.resample_filter;
  o.resample_proj = true;
  o.adaptive_scale = options_.adaptive_scale;
  o.init = kSongInit;
  o.init_zero = kSongInitZero;
  o.init_attn = kSongInitAttention;
  auto block = owner.register_module(
      name, std::make_shared<UNetBlock>(in, out, std::move(o), side + "." + name));
  path.push_back({Part::block, name, nullptr, block, nullptr});
  return block;
}

void SongUNet::build_encoder() {
  auto enc = register_module("enc", std::make_shared<SongPath>());
  const int64_t levels = static_cast<int64_t>(options_.channel_mult.size());
  int64_t width = in_channels_, aux = in_channels_;
  for (int64_t level = 0; level < levels; ++level) {
    const std::string res = level_name(level);
    const int64_t h = height_ >> level, w = width_ >> level;
    if (level == 0) {
      width = options_.model_channels;
      Conv2dOptions o;
      o.init = kSongInit;
      multiply_adds_ += add_conv(encoder_, *enc, Part::conv, res + "_conv", in_channels_,
                                 width, o)->multiply_adds(h, w);
    } else {
      multiply_adds_ += add_block(encoder_, *enc, "enc", res + "_down", width, width,
                                  false, false, true)->multiply_adds(2 * h, 2 * w);
      Conv2dOptions o;
      o.init = kSongInit;
      o.down = true;
      if (options_.encoder_type == "skip") {
        o.kernel = 0;
        multiply_adds_ += add_conv(encoder_, *enc, Part::aux_down, res + "_aux_down", aux,
                                   aux, o)->multiply_adds(2 * h, 2 * w);
        o.kernel = 1;
        o.down = false;
        multiply_adds_ += add_conv(encoder_, *enc, Part::aux_skip, res + "_aux_skip", aux,
                                   width, o)->multiply_adds(h, w);
      } else if (options_.encoder_type == "residual") {
        o.fused_resample = true;
        multiply_adds_ += add_conv(encoder_, *enc, Part::aux_residual,
                                   res + "_aux_residual", aux, width, o)
                              ->multiply_adds(2 * h, 2 * w);
        aux = width;
      }
    }
    skip_channels_.push_back(width);
    const int64_t out =
        options_.model_channels * options_.channel_mult[static_cast<std::size_t>(level)];
    for (int64_t i = 0; i < options_.num_blocks; ++i) {
      multiply_adds_ +=
          add_block(encoder_, *enc, "enc", res + "_block" + std::to_string(i), width, out,
                    attends(level))->multiply_adds(h, w);
      width = out;
      skip_channels_.push_back(width);
    }
  }
  last_channels_ = width;
}

void SongUNet::build_decoder() {
  auto dec = register_module("dec", std::make_shared<SongPath>());
  const int64_t levels = static_cast<int64_t>(options_.channel_mult.size());
  int64_t width = last_channels_;
  for (int64_t level = levels - 1; level >= 0; --level) {
    const std::string res = level_name(level);
    const int64_t h = height_ >> level, w = width_ >> level;
    const auto block = [&](const std::string& name, int64_t in, int64_t out,
                           bool attention, bool up = false) {
      const int64_t shrink = up ? 2 : 1;
      multiply_adds_ += add_block(decoder_, *dec, "dec", res + name, in, out, attention,
                                  up)->multiply_adds(h / shrink, w / shrink);
    };
    if (level == levels - 1) {
      block("_in0", width, width, true);
      block("_in1", width, width, false);
    } else {
      block("_up", width, width, false, true);
    }
    const int64_t out =
        options_.model_channels * options_.channel_mult[static_cast<std::size_t>(level)];
    for (int64_t i = 0; i <= options_.num_blocks; ++i) {
      block("_block" + std::to_string(i), width + skip_channels_.back(), out,
            i == options_.num_blocks && attends(level));
      skip_channels_.pop_back();
      width = out;
    }
    if (options_.decoder_type != "skip" && level > 0) continue;
    if (options_.decoder_type == "skip" && level < levels - 1) {
      Conv2dOptions o;
      o.kernel = 0;
      o.up = true;
      multiply_adds_ += add_conv(decoder_, *dec, Part::aux_up, res + "_aux_up",
                                 out_channels_, out_channels_, o)
                            ->multiply_adds(h / 2, w / 2);
    }
    auto norm = dec->register_module(res + "_aux_norm",
                                     std::make_shared<GroupNorm>(width, kSongEps));
    decoder_.push_back({Part::aux_norm, res + "_aux_norm", nullptr, nullptr, norm});
    Conv2dOptions o;
    o.init = kSongInitZero;
    multiply_adds_ += add_conv(decoder_, *dec, Part::aux_conv, res + "_aux_conv", width,
                               out_channels_, o)->multiply_adds(h, w);
  }
}

Dual SongUNet::embed(const Dual& time, const Dual& time2, const Condition& condition,
                     const Context& context) const {
  const int64_t batch = time.value.size(0), half = noise_channels_ / 2;
  // Sin before cos: the halves of the embedding change places.
  const auto features = [&](const Dual& t) {
    const Dual e = map_noise_->forward(t);
    const std::array<Dual, 2> swapped = {ops::narrow(e, 1, half, half),
                                         ops::narrow(e, 1, 0, half)};
    return ops::cat(swapped, 1);
  };
  Dual e = features(time);
  if (shape_.times == 2 && !map2_layer0_) e = ops::scale(e + features(time2), 0.5);
  const auto options = e.value.options();
  if (map_label_) {
    at::Tensor labels = condition.class_labels;
    labels = labels.defined() ? labels.to(options)
                              : at::zeros({batch, shape_.label_dim}, options);
    FM_CHECK(labels.dim() == 2 && labels.size(1) == shape_.label_dim,
             "class labels have shape ", labels.sizes(), "; the network expects [", batch,
             ", ", shape_.label_dim, "]");
    const at::Tensor kept =
        row_dropout(labels, options_.label_dropout, "label_dropout", context);
    if (kept.defined()) labels = labels * kept.unsqueeze(1);
    const double gain = std::sqrt(static_cast<double>(shape_.label_dim));
    e = e + map_label_->forward(Dual(labels * gain));
  }
  if (map_augment_ && condition.augment_labels.defined())
    e = e + map_augment_->forward(Dual(condition.augment_labels.to(options)));
  Dual emb = map_layer1_->forward(ops::silu(map_layer0_->forward(e)));
  if (map2_layer0_) {
    const Dual gap = ops::silu(map2_layer0_->forward(features(time2)));
    emb = emb + map2_layer1_->forward(gap);
  }
  return ops::silu(emb);
}

Dual SongUNet::encode(const Dual& input, const Dual& emb, std::vector<Dual>& skips,
                      Context& context) const {
  Dual x = input, aux = input;
  for (const Stage& stage : encoder_) {
    switch (stage.part) {
      case Part::aux_down:
        aux = stage.conv->forward(aux);
        continue;
      case Part::aux_skip:
        x = skips.back() = x + stage.conv->forward(aux);
        continue;
      case Part::aux_residual:
        x = skips.back() = aux =
            ops::scale(x + stage.conv->forward(aux), 1 / std::numbers::sqrt2);
        continue;
      case Part::block:
        x = stage.block->forward(x, emb, context);
        break;
      default:
        x = stage.conv->forward(x);
    }
    skips.push_back(x);
    if (context.taps) (*context.taps)["enc." + stage.name] = x.value;
  }
  return x;
}

Dual SongUNet::decode(Dual x, const Dual& emb, std::vector<Dual>& skips,
                      Context& context) const {
  Dual aux, normed;
  for (const Stage& stage : decoder_) {
    switch (stage.part) {
      case Part::aux_up:
        aux = stage.conv->forward(aux);
        continue;
      case Part::aux_norm:
        normed = stage.norm->forward(x);
        continue;
      case Part::aux_conv: {
        const Dual out = stage.conv->forward(ops::silu(normed));
        aux = aux.defined() ? out + aux : out;
        continue;
      }
      default:
        break;
    }
    if (x.value.size(1) != stage.block->in_channels()) {
      const std::array<Dual, 2> parts = {x, skips.back()};
      x = ops::cat(parts, 1);
      skips.pop_back();
    }
    x = stage.block->forward(x, emb, context);
    if (context.taps) (*context.taps)["dec." + stage.name] = x.value;
  }
  return aux;
}

Dual SongUNet::forward(const Dual& x, const Dual& time, const Dual& time2,
                       const Condition& condition, Context& context) {
  FM_CHECK(x.value.dim() == 4 && x.value.sizes().slice(1) == at::IntArrayRef(shape_.sample),
           "the network takes [B, ", at::IntArrayRef(shape_.sample), "], got ",
           x.value.sizes());
  FM_CHECK(time2.defined() == (shape_.times == 2), "the network has ", shape_.times,
           shape_.times == 2 ? " times, got one" : " time, got two");
  FM_CHECK_USAGE(!condition.guidance.defined(),
                 "this network takes no guidance scale as an input");
  const Dual emb = embed(time, time2, condition, context);
  if (context.taps) (*context.taps)["emb"] = emb.value;
  std::vector<Dual> skips;
  const Dual deep = encode(fold_patches(x, options_.patch), emb, skips, context);
  return unfold_patches(decode(deep, emb, skips, context), options_.patch);
}

namespace {

SongUNetOptions read_song_options(const Config& c, const NetworkShape& shape,
                                  SongUNetOptions o) {
  static const std::string kEmbeddings[] = {"positional", "fourier"};
  static const std::string kEncoders[] = {"standard", "skip", "residual"};
  static const std::string kDecoders[] = {"standard", "skip"};
  static const std::string kTimes[] = {"s_gap", "s_t"};
  o.model_channels = c.integer("model_channels", o.model_channels, 4, 1 << 16);
  o.channel_mult = c.integers("channel_mult", o.channel_mult);
  FM_CHECK_USAGE(std::all_of(o.channel_mult.begin(), o.channel_mult.end(),
                             [](int64_t m) { return m > 0; }),
                 c.where("channel_mult"), ": network.channel_mult must be positive");
  o.channel_mult_emb = c.integer("channel_mult_emb", o.channel_mult_emb, 1, 64);
  o.channel_mult_noise = c.integer("channel_mult_noise", o.channel_mult_noise, 1, 64);
  o.num_blocks = c.integer("num_blocks", o.num_blocks, 1, 64);
  o.attn_resolutions = c.integers("attn_resolutions", o.attn_resolutions);
  o.num_heads = c.integer("num_heads", o.num_heads, 1, 1024);
  o.dropout = c.number("dropout", o.dropout, 0, 0.99);
  if (shape.label_dim > 0)
    o.label_dropout = c.number("label_dropout", o.label_dropout, 0, 1);
  o.augment_dim = c.integer("augment_dim", o.augment_dim, 0, 1 << 16);
  o.embedding_type = c.choice("embedding_type", kEmbeddings, o.embedding_type);
  o.encoder_type = c.choice("encoder_type", kEncoders, o.encoder_type);
  o.decoder_type = c.choice("decoder_type", kDecoders, o.decoder_type);
  o.resample_filter = c.numbers("resample_filter", o.resample_filter);
  FM_CHECK_USAGE(!o.resample_filter.empty() && o.resample_filter.size() % 2 == 0,
                 c.where("resample_filter"),
                 ": network.resample_filter must have an even number of taps");
  o.adaptive_scale = c.boolean("adaptive_scale", o.adaptive_scale);
  o.skip_scale = c.number("skip_scale", o.skip_scale, 0, 1e3);
  if (o.embedding_type == "fourier")
    o.fourier_scale = c.number("fourier_scale", o.fourier_scale, 0, 1e6);
  o.patch = c.integer("patch", o.patch, 1, 64);
  if (shape.times == 2)
    o.time_embedding = c.choice("time_embedding", kTimes, o.time_embedding);
  return o;
}

}  // namespace

std::shared_ptr<Network> make_ddpmpp(const Config& options, const NetworkShape& shape) {
  return std::make_shared<SongUNet>(read_song_options(options, shape, {}), shape);
}

std::shared_ptr<Network> make_ncsnpp(const Config& options, const NetworkShape& shape) {
  SongUNetOptions defaults;
  defaults.embedding_type = "fourier";
  defaults.encoder_type = "residual";
  defaults.channel_mult_noise = 2;
  defaults.resample_filter = {1, 3, 3, 1};
  return std::make_shared<SongUNet>(read_song_options(options, shape, defaults), shape);
}

}  // namespace flowmap
