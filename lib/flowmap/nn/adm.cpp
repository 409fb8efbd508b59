// The U-Net of Dhariwal and Nichol 2021 (ADM, arXiv 2105.05233) in the form of Karras et
// al. 2022 (EDM's DhariwalUNet): adaptive scale and shift, 64 channels a head, plain
// encoder and decoder.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/network.h"
#include "flowmap/nn/inputs.h"
#include "flowmap/nn/layers.h"
#include "flowmap/nn/unet_block.h"
#include "flowmap/nn/unet_parts.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

const Init kAdmInit = {InitMode::kaiming_uniform, std::sqrt(1.0 / 3), std::sqrt(1.0 / 3)};
const Init kAdmInitZero = {InitMode::kaiming_uniform, 0, 0};

// Names and meanings are EDM's.
struct AdmOptions {
  int64_t model_channels = 192;
  std::vector<int64_t> channel_mult = {1, 2, 3, 4};
  int64_t channel_mult_emb = 4;
  int64_t num_blocks = 3;
  std::vector<int64_t> attn_resolutions = {32, 16, 8};  // by height
  double dropout = 0.1;
  double label_dropout = 0;
  int64_t augment_dim = 0;
  std::string time_embedding = "s_gap";  // UNetMappingOptions
  bool qk_norm = false;                  // UNetBlockOptions
};

class DhariwalUNet : public Network {
 public:
  DhariwalUNet(AdmOptions options, NetworkShape shape)
      : options_(std::move(options)), shape_(std::move(shape)) {
    check_unet_shape(shape_, static_cast<int64_t>(options_.channel_mult.size()), 1);
    build_mapping();
    build_encoder();
    build_decoder();
  }

  Dual forward(const Dual& input, const Dual& time, const Dual& time2,
               const Condition& condition, Context& context) override {
    check_inputs(shape_, input, time2, condition);
    const UNetEmbeddings emb = mapping_->forward(time, time2, condition, context);
    const auto tap = [&](const std::string& name, const Dual& a) {
      if (context.taps) (*context.taps)[name] = a.value;
    };
    tap("emb", emb.encoder);
    Dual x = first_->forward(input);
    tap("enc." + first_name_, x);
    std::vector<Dual> skips = {x};
    for (const Stage& stage : encoder_) {
      x = stage.block->forward(x, emb.encoder, context);
      tap("enc." + stage.name, x);
      skips.push_back(x);
    }
    for (const Stage& stage : decoder_) {
      Dual skip;
      if (stage.takes_skip) {
        skip = skips.back();
        skips.pop_back();
      }
      x = stage.block->forward(x, emb.decoder, context, skip);
      tap("dec." + stage.name, x);
    }
    return out_conv_->forward(ops::silu(out_norm_->forward(x)));
  }

  double multiply_adds() const override { return multiply_adds_; }
  bool second_time_is_gap() const override { return options_.time_embedding == "s_gap"; }

 private:
  struct Stage {
    std::string name;
    std::shared_ptr<UNetBlock> block;
    bool takes_skip;
  };
  // A module that only names its children ("enc", "dec").
  class Path : public torch::nn::Module {};

  void build_mapping() {
    UNetMappingOptions o;
    o.noise_channels = options_.model_channels;
    o.emb_channels = emb_channels();
    o.augment_dim = options_.augment_dim;
    o.label_dropout = options_.label_dropout;
    o.time_embedding = options_.time_embedding;
    o.song = false;
    o.init = kAdmInit;
    o.init_augment = kAdmInitZero;
    o.init_label = {InitMode::kaiming_normal,
                    std::sqrt(static_cast<double>(shape_.label_dim)), 0};
    mapping_ = std::make_unique<UNetMapping>(
        *this, std::make_shared<PositionalEmbedding>(options_.model_channels), o, shape_);
    multiply_adds_ += mapping_->multiply_adds();
  }

  enum class Resample { none, up, down };

  // height and width: of the block's input.
  void add_block(std::vector<Stage>& path, torch::nn::Module& owner,
                 const std::string& side, const std::string& name, int64_t in, int64_t out,
                 bool attention, Resample resample, int64_t height, int64_t width,
                 bool takes_skip = false) {
    UNetBlockOptions o;
    o.emb_channels = emb_channels();
    o.up = resample == Resample::up;
    o.down = resample == Resample::down;
    o.attention = attention;
    o.dropout = options_.dropout;
    o.qk_norm = options_.qk_norm;
    o.init = o.init_attn = kAdmInit;
    o.init_zero = kAdmInitZero;
    auto block = owner.register_module(
        name, std::make_shared<UNetBlock>(in, out, std::move(o), side + "." + name));
    multiply_adds_ += block->multiply_adds(height, width);
    path.push_back({name, std::move(block), takes_skip});
  }

  void build_encoder() {
    auto enc = register_module("enc", std::make_shared<Path>());
    const int64_t top_h = shape_.sample[1], top_w = shape_.sample[2];
    first_name_ = level_name(0) + "_conv";
    Conv2dOptions conv;
    conv.init = kAdmInit;
    channels_ = width_of(0);
    first_ = enc->register_module(
        first_name_, std::make_shared<Conv2d>(shape_.sample[0], channels_, conv));
    multiply_adds_ += first_->multiply_adds(top_h, top_w);
    skip_channels_ = {channels_};
    for (int64_t level = 0; level < levels(); ++level) {
      const int64_t h = top_h >> level, w = top_w >> level;
      if (level > 0) {
        add_block(encoder_, *enc, "enc", level_name(level) + "_down", channels_, channels_,
                  false, Resample::down, 2 * h, 2 * w);
        skip_channels_.push_back(channels_);
      }
      for (int64_t i = 0; i < options_.num_blocks; ++i) {
        add_block(encoder_, *enc, "enc", level_name(level) + "_block" + std::to_string(i),
                  channels_, width_of(level), attends(level), Resample::none, h, w);
        channels_ = width_of(level);
        skip_channels_.push_back(channels_);
      }
    }
  }

  void build_decoder() {
    auto dec = register_module("dec", std::make_shared<Path>());
    const int64_t top_h = shape_.sample[1], top_w = shape_.sample[2];
    for (int64_t level = levels() - 1; level >= 0; --level) {
      const int64_t h = top_h >> level, w = top_w >> level;
      const std::string name = level_name(level);
      if (level == levels() - 1) {
        add_block(decoder_, *dec, "dec", name + "_in0", channels_, channels_, true,
                  Resample::none, h, w);
        add_block(decoder_, *dec, "dec", name + "_in1", channels_, channels_, false,
                  Resample::none, h, w);
      } else {
        add_block(decoder_, *dec, "dec", name + "_up", channels_, channels_, false,
                  Resample::up, h / 2, w / 2);
      }
      for (int64_t i = 0; i <= options_.num_blocks; ++i) {
        add_block(decoder_, *dec, "dec", name + "_block" + std::to_string(i),
                  channels_ + skip_channels_.back(), width_of(level), attends(level),
                  Resample::none, h, w, /*takes_skip=*/true);
        skip_channels_.pop_back();
        channels_ = width_of(level);
      }
    }
    out_norm_ = register_module("out_norm", std::make_shared<GroupNorm>(channels_));
    Conv2dOptions conv;
    conv.init = kAdmInitZero;
    const int64_t out = shape_.out_channels ? shape_.out_channels : shape_.sample[0];
    out_conv_ =
        register_module("out_conv", std::make_shared<Conv2d>(channels_, out, conv));
    multiply_adds_ += out_conv_->multiply_adds(top_h, top_w);
  }

  int64_t levels() const { return static_cast<int64_t>(options_.channel_mult.size()); }
  int64_t emb_channels() const {
    return options_.model_channels * options_.channel_mult_emb;
  }
  int64_t width_of(int64_t level) const {
    return options_.model_channels * options_.channel_mult[static_cast<std::size_t>(level)];
  }
  bool attends(int64_t level) const {
    const auto& at = options_.attn_resolutions;
    return std::find(at.begin(), at.end(), shape_.sample[1] >> level) != at.end();
  }
  std::string level_name(int64_t level) const {
    const std::string size = std::to_string(shape_.sample[1] >> level);
    return size + "x" + size;
  }

  AdmOptions options_;
  NetworkShape shape_;
  int64_t channels_ = 0;                // of the last block built
  std::vector<int64_t> skip_channels_;  // likewise
  double multiply_adds_ = 0;

  std::unique_ptr<UNetMapping> mapping_;
  std::string first_name_;
  std::shared_ptr<Conv2d> first_, out_conv_;
  std::shared_ptr<GroupNorm> out_norm_;
  std::vector<Stage> encoder_, decoder_;
};

}  // namespace

std::shared_ptr<Network> make_adm(const Config& c, const NetworkShape& shape) {
  AdmOptions o;
  o.model_channels = c.integer("model_channels", o.model_channels, 4, 1 << 16);
  o.channel_mult = read_channel_mult(c, o.channel_mult);
  o.channel_mult_emb = c.integer("channel_mult_emb", o.channel_mult_emb, 1, 64);
  o.num_blocks = c.integer("num_blocks", o.num_blocks, 1, 64);
  o.attn_resolutions = c.integers("attn_resolutions", o.attn_resolutions);
  o.dropout = c.number("dropout", o.dropout, 0, 0.99);
  if (shape.label_dim > 0)
    o.label_dropout = c.number("label_dropout", o.label_dropout, 0, 1);
  o.augment_dim = c.integer("augment_dim", o.augment_dim, 0, 1 << 16);
  o.time_embedding = read_time_embedding(c, shape);
  o.qk_norm = c.boolean("qk_norm", o.qk_norm);
  return std::make_shared<DhariwalUNet>(std::move(o), shape);
}

}  // namespace flowmap
