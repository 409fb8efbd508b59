// The layers EDM's networks are made of (Karras et al. 2022, "Elucidating the Design Space
// of Diffusion-Based Generative Models", and its published networks), as modules whose
// parameter names are EDM's and whose arithmetic is that of ops.h.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>
#include <vector>

#include "flowmap/dual.h"
#include "flowmap/network.h"
#include "flowmap/nn/init.h"

namespace flowmap {

// y = x W^T + b; weight [out, in], bias [out].
class Linear : public torch::nn::Module, public Initialised {
 public:
  Linear(int64_t in, int64_t out, Init init = {}, bool with_bias = true);
  Dual forward(const Dual& x) const;  // [..., in] -> [..., out]
  void initialise(std::uint64_t seed, const std::string& name) override;
  double multiply_adds() const;

  at::Tensor weight, bias;

 private:
  Init init_;
};

struct Conv2dOptions {
  int64_t kernel = 3;  // odd, or 0: no weight, resampling only
  bool bias = true;
  bool up = false, down = false;  // by two, one of them at most
  std::vector<double> resample_filter = {1, 1};
  // Convolution and resampling share their padding (no border is lost or made twice).
  bool fused_resample = false;
  Init init = {};
};

// Convolution with optional resampling by a separable filter, normalised to unit sum.
// weight [out, in, k, k], bias [out], buffer resample_filter [1, 1, taps, taps].
class Conv2d : public torch::nn::Module, public Initialised {
 public:
  Conv2d(int64_t in, int64_t out, Conv2dOptions options);
  Dual forward(const Dual& x) const;  // [B, in, H, W] -> [B, out, H', W']
  void initialise(std::uint64_t seed, const std::string& name) override;
  // For an input of height x width.
  double multiply_adds(int64_t height, int64_t width) const;

  int64_t in_channels() const { return in_; }
  int64_t out_channels() const { return out_; }

  at::Tensor weight, bias, resample_filter;

 private:
  int64_t in_, out_;
  Conv2dOptions options_;
};

// min(32, C/4) groups by default as EDM, or the next smaller number that divides C
// (EDM refuses such widths, 144 say).
class GroupNorm : public torch::nn::Module {
 public:
  GroupNorm(int64_t channels, double eps = 1e-5, int64_t max_groups = 32,
            int64_t min_channels_per_group = 4);
  Dual forward(const Dual& x) const;  // [B, C, ...]

  at::Tensor weight, bias;

 private:
  int64_t groups_;
  double eps_;
};

// [B] -> [B, channels], or the embedding of a time.
class TimeEmbedding : public torch::nn::Module {
 public:
  virtual Dual forward(const Dual& time) const = 0;
};

// [cos(t f), sin(t f)], f_k = max_positions^(-k / (half - endpoint)), k = 0 .. half-1.
class PositionalEmbedding : public TimeEmbedding {
 public:
  explicit PositionalEmbedding(int64_t channels, bool endpoint = false,
                               double max_positions = 10000);
  Dual forward(const Dual& time) const override;

 private:
  at::Tensor frequencies_;          // float64, on the CPU
  mutable at::Tensor placed_;       // the same where and as it was last used
};

// [cos(2 pi t f), sin(2 pi t f)], f normal with deviation `scale`, drawn once: buffer
// freqs [channels / 2].
class FourierEmbedding : public TimeEmbedding, public Initialised {
 public:
  explicit FourierEmbedding(int64_t channels, double scale = 16);
  Dual forward(const Dual& time) const override;
  void initialise(std::uint64_t seed, const std::string& name) override;

  at::Tensor freqs;

 private:
  double scale_;
};

// Zeroes elements with probability `rate` and divides the others by 1 - rate. Off unless
// context.train is set and context.draw is given, from which the mask is drawn under
// `layer` (one row a sample). Value and tangent see the same mask.
Dual dropout(const Dual& x, double rate, const std::string& layer,
             const Context& context);

// Rows kept with probability 1 - rate, [B] of zeros and ones in x's dtype; undefined where
// dropout is off. Label dropout.
at::Tensor row_dropout(const at::Tensor& like, double rate, const std::string& layer,
                       const Context& context);

// patch x patch pixels into channels, [B, C, H, W] -> [B, C p^2, H/p, W/p], and back.
Dual fold_patches(const Dual& x, int64_t patch);
Dual unfold_patches(const Dual& x, int64_t patch);

}  // namespace flowmap
