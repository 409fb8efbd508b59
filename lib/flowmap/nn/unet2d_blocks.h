// The parts of the U-Net of Ho et al. 2020 (DDPM, arXiv 2006.11239) as diffusers'
// UNet2DModel has them; parameter names are diffusers'.
#pragma once

#include <memory>
#include <string>

#include "flowmap/dual.h"
#include "flowmap/network.h"
#include "flowmap/nn/layers.h"

namespace flowmap {

// What PyTorch starts linear layers and convolutions with: uniform in 1 / sqrt(fan_in).
Init unet2d_init();

// A module that only names its children ("down_blocks", "resnets", "0").
class UNet2dPath : public torch::nn::Module {};

// weight [rows, width], normal at the start; labels [B, rows] -> [B, width].
class UNet2dLabels : public torch::nn::Module, public Initialised {
 public:
  UNet2dLabels(int64_t rows, int64_t width);
  at::Tensor forward(const at::Tensor& labels) const;
  void initialise(std::uint64_t seed, const std::string& name) override;
  double multiply_adds() const { return static_cast<double>(weight.numel()); }

  at::Tensor weight;
};

// linear_1, SiLU, linear_2.
class UNet2dTimeMlp : public torch::nn::Module {
 public:
  UNet2dTimeMlp(int64_t in, int64_t width, const Init& last = unet2d_init());
  Dual forward(const Dual& features) const;
  double multiply_adds() const;

 private:
  std::shared_ptr<Linear> linear_1_, linear_2_;
};

struct UNet2dBlockOptions {
  int64_t emb_channels = 0;
  int64_t groups = 32;         // of the norms; divides every number of channels
  double eps = 1e-5;           // likewise
  bool scale_shift = false;    // the embedding scales and shifts, or only shifts
  double dropout = 0;
  double output_divisor = 1;   // of the residual sums
};

// Parameters norm1, conv1, time_emb_proj, norm2, conv2, [conv_shortcut].
class UNet2dResnet : public torch::nn::Module {
 public:
  // `path` names the block in dropout streams.
  UNet2dResnet(int64_t in, int64_t out, const UNet2dBlockOptions& options,
               std::string path);
  // x [B, in, H, W], emb [B, emb_channels] after its SiLU -> [B, out, H, W].
  Dual forward(const Dual& x, const Dual& emb, const Context& context) const;
  double multiply_adds(int64_t height, int64_t width) const;

 private:
  UNet2dBlockOptions options_;
  std::string path_;
  std::shared_ptr<GroupNorm> norm1_, norm2_;
  std::shared_ptr<Conv2d> conv1_, conv2_, conv_shortcut_;
  std::shared_ptr<Linear> time_emb_proj_;
};

// Attention between all pixels, with its residual. Parameters [group_norm], to_q, to_k,
// to_v, to_out.0.
class UNet2dAttention : public torch::nn::Module {
 public:
  // head_channels divides `channels`; groups 0: no norm.
  UNet2dAttention(int64_t channels, int64_t head_channels, int64_t groups, double eps,
                  double output_divisor);
  Dual forward(const Dual& x) const;  // [B, C, H, W]
  double multiply_adds(int64_t height, int64_t width) const;

 private:
  int64_t channels_, head_channels_;
  double output_divisor_;
  std::shared_ptr<GroupNorm> group_norm_;
  std::shared_ptr<Linear> to_q_, to_k_, to_v_, to_out_;
};

}  // namespace flowmap
