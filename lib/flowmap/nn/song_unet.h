// The U-Net of Song et al. 2021 ("Score-Based Generative Modeling through Stochastic
// Differential Equations") in EDM's form: DDPM++ and NCSN++ are settings of it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flowmap/nn/layers.h"
#include "flowmap/nn/unet_block.h"
#include "flowmap/nn/unet_parts.h"

namespace flowmap {

// Names and meanings are EDM's; what is ours says so.
struct SongUNetOptions {
  int64_t model_channels = 128;
  std::vector<int64_t> channel_mult = {2, 2, 2};
  int64_t channel_mult_emb = 4;
  int64_t channel_mult_noise = 1;
  int64_t num_blocks = 4;
  std::vector<int64_t> attn_resolutions = {16};  // by height
  int64_t num_heads = 1;
  double dropout = 0;
  double label_dropout = 0;
  int64_t augment_dim = 0;
  std::string embedding_type = "positional";  // or "fourier"
  std::string encoder_type = "standard";      // or "skip", "residual"
  std::string decoder_type = "standard";      // or "skip"
  std::vector<double> resample_filter = {1, 1};
  bool adaptive_scale = false;
  double skip_scale = 0.70710678118654752440;
  double fourier_scale = 16;
  // Ours: patch x patch pixels are folded into channels before the first convolution and
  // unfolded after the last; the top level then has height / patch.
  int64_t patch = 1;
  bool qk_norm = false;  // ours: UNetBlockOptions
  // Ours: how two times enter (UNetMappingOptions).
  std::string time_embedding = "s_gap";
};

class SongUNet : public Network {
 public:
  // sample {C, H, W}; sizes that do not halve evenly at each level are refused
  // (UsageError). Levels are named by their height: enc.28x28_conv, enc.14x14_down, ...
  SongUNet(SongUNetOptions options, NetworkShape shape);

  Dual forward(const Dual& x, const Dual& time, const Dual& time2,
               const Condition& condition, Context& context) override;
  double multiply_adds() const override { return multiply_adds_; }
  bool second_time_is_gap() const override { return options_.time_embedding == "s_gap"; }
  // 1 for Fourier features, whose frequencies are high already.
  double default_time_scale() const override {
    return options_.embedding_type == "positional" ? 16 : 1;
  }

 private:
  enum class Part {
    conv, block, aux_down, aux_skip, aux_residual, aux_up, aux_norm, aux_conv
  };
  struct Stage {
    Part part;
    std::string name;
    std::shared_ptr<Conv2d> conv;
    std::shared_ptr<UNetBlock> block;
    std::shared_ptr<GroupNorm> norm;
  };

  void build_mapping();
  void build_encoder();
  void build_decoder();
  std::shared_ptr<Conv2d> add_conv(std::vector<Stage>& path, torch::nn::Module& owner,
                                   Part part, const std::string& name, int64_t in,
                                   int64_t out, Conv2dOptions options);
  std::shared_ptr<UNetBlock> add_block(std::vector<Stage>& path, torch::nn::Module& owner,
                                       const std::string& side, const std::string& name,
                                       int64_t in, int64_t out, bool attention,
                                       bool up = false, bool down = false);
  bool attends(int64_t level) const;
  std::string level_name(int64_t level) const;
  Dual encode(const Dual& x, const Dual& emb, std::vector<Dual>& skips,
              Context& context) const;
  Dual decode(Dual x, const Dual& emb, std::vector<Dual>& skips, Context& context) const;

  SongUNetOptions options_;
  NetworkShape shape_;
  int64_t in_channels_, out_channels_, height_, width_;  // after folding
  int64_t emb_channels_;
  int64_t last_channels_ = 0;          // of the encoder, while building
  std::vector<int64_t> skip_channels_;  // likewise
  double multiply_adds_ = 0;

  std::unique_ptr<UNetMapping> mapping_;
  std::vector<Stage> encoder_, decoder_;
};

// Rows of the network registry.
std::shared_ptr<Network> make_ddpmpp(const Config& options, const NetworkShape& shape);
std::shared_ptr<Network> make_ncsnpp(const Config& options, const NetworkShape& shape);

}  // namespace flowmap
