#include "flowmap/nn/song_unet.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "flowmap/base/error.h"
#include "flowmap/nn/inputs.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

constexpr double kSongEps = 1e-6;
const Init kSongInit = {InitMode::xavier_uniform, 1, 0};
const Init kSongInitZero = {InitMode::xavier_uniform, 1e-5, 0};
const Init kSongInitAttention = {InitMode::xavier_uniform, std::sqrt(0.2), 0};

// A module that only names its children ("enc", "dec").
class SongPath : public torch::nn::Module {};

}  // namespace

SongUNet::SongUNet(SongUNetOptions options, NetworkShape shape)
    : options_(std::move(options)), shape_(std::move(shape)) {
  check_unet_shape(shape_, static_cast<int64_t>(options_.channel_mult.size()),
                   options_.patch);
  const int64_t area = options_.patch * options_.patch;
  in_channels_ = shape_.sample[0] * area;
  out_channels_ = (shape_.out_channels ? shape_.out_channels : shape_.sample[0]) * area;
  height_ = shape_.sample[1] / options_.patch;
  width_ = shape_.sample[2] / options_.patch;
  emb_channels_ = options_.model_channels * options_.channel_mult_emb;
  build_mapping();
  build_encoder();
  build_decoder();
}

void SongUNet::build_mapping() {
  UNetMappingOptions o;
  o.noise_channels = options_.model_channels * options_.channel_mult_noise;
  o.emb_channels = emb_channels_;
  o.augment_dim = options_.augment_dim;
  o.label_dropout = options_.label_dropout;
  o.time_embedding = options_.time_embedding;
  o.init = o.init_label = o.init_augment = kSongInit;
  std::shared_ptr<TimeEmbedding> noise;
  if (options_.embedding_type == "positional")
    noise = std::make_shared<PositionalEmbedding>(o.noise_channels, true);
  else
    noise = std::make_shared<FourierEmbedding>(o.noise_channels, options_.fourier_scale);
  mapping_ = std::make_unique<UNetMapping>(*this, std::move(noise), o, shape_);
  multiply_adds_ += mapping_->multiply_adds();
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
  o.qk_norm = options_.qk_norm;
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
    Dual skip;
    if (x.value.size(1) != stage.block->in_channels()) {
      skip = skips.back();
      skips.pop_back();
    }
    x = stage.block->forward(x, emb, context, skip);
    if (context.taps) (*context.taps)["dec." + stage.name] = x.value;
  }
  return aux;
}

Dual SongUNet::forward(const Dual& x, const Dual& time, const Dual& time2,
                       const Condition& condition, Context& context) {
  check_inputs(shape_, x, time2, condition);
  const UNetEmbeddings emb = mapping_->forward(time, time2, condition, context);
  if (context.taps) (*context.taps)["emb"] = emb.encoder.value;
  std::vector<Dual> skips;
  const Dual deep = encode(fold_patches(x, options_.patch), emb.encoder, skips, context);
  return unfold_patches(decode(deep, emb.decoder, skips, context), options_.patch);
}

namespace {

SongUNetOptions read_song_options(const Config& c, const NetworkShape& shape,
                                  SongUNetOptions o) {
  static const std::string kEmbeddings[] = {"positional", "fourier"};
  static const std::string kEncoders[] = {"standard", "skip", "residual"};
  static const std::string kDecoders[] = {"standard", "skip"};
  o.model_channels = c.integer("model_channels", o.model_channels, 4, 1 << 16);
  o.channel_mult = read_channel_mult(c, o.channel_mult);
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
  o.qk_norm = c.boolean("qk_norm", o.qk_norm);
  o.time_embedding = read_time_embedding(c, shape);
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
