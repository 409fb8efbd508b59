// Magnitude-preserving layers (Karras et al. 2024, "Analyzing and Improving the Training
// Dynamics of Diffusion Models", arXiv 2312.02696): with unit-variance inputs every layer
// gives unit-variance outputs, whatever its weights. No biases, no learned norms.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flowmap/dual.h"
#include "flowmap/network.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/layers.h"

namespace flowmap {

// The eps of every normalisation in these networks.
inline constexpr double kMpEps = 1e-4;

// Each filter (all dimensions but the first) with root-mean-square 1: w / (eps + rms).
at::Tensor normalized_weight(const at::Tensor& weight);

Dual mp_silu(const Dual& x);  // silu(x) / 0.596 (eq. 81)
// ((1-t) a + t b) / sqrt((1-t)^2 + t^2) (eq. 88).
Dual mp_sum(const Dual& a, const Dual& b, double t);
// a and b along dimension 1, weighted so that their contributions to what follows have
// the ratio 1-t to t whatever their widths (eq. 103).
Dual mp_cat(const Dual& a, const Dual& b, double t);

enum class Resample { keep, up, down };
// By two, by a separable filter of an even number of taps, normalised to unit sum.
// x [B, C, H, W] -> [B, C, H', W'].
Dual mp_resample(const Dual& x, std::span<const double> filter, Resample mode);

// Linear map (kernel 0, weight [out, in]) or convolution (odd kernel, weight [out, in, k,
// k]) by normalised filters of L2 norm `gain` (eq. 66).
class MpConv : public torch::nn::Module, public Initialised {
 public:
  MpConv(int64_t in, int64_t out, int64_t kernel);
  // gain: scalar tensor, undefined for 1.
  Dual forward(const Dual& x, const at::Tensor& gain = {}) const;
  // Forced weight normalisation: the stored weight becomes its normalised self.
  void project();
  void initialise(std::uint64_t seed, const std::string& name) override;
  // For an output of so many pixels.
  double multiply_adds(int64_t pixels = 1) const;

  at::Tensor weight;
};

// sqrt(2) cos(t f + p), f = 2 pi bandwidth times unit normals, p uniform in [0, 2 pi):
// buffers freqs, phases [channels] (eq. 75).
class MpFourier : public TimeEmbedding, public Initialised {
 public:
  explicit MpFourier(int64_t channels, double bandwidth = 1);
  Dual forward(const Dual& time) const override;
  void initialise(std::uint64_t seed, const std::string& name) override;

  at::Tensor freqs, phases;

 private:
  double bandwidth_;
};

// sqrt(2) times PositionalEmbedding: [cos(t f), sin(t f)], f_k = 10000^(-k / half). No
// parameters (Boffi et al. 2025, the published code).
class MpPositional : public TimeEmbedding {
 public:
  explicit MpPositional(int64_t channels) : embedding_(channels) {}
  Dual forward(const Dual& time) const override;

 private:
  PositionalEmbedding embedding_;
};

struct MpBlockOptions {
  int64_t emb_channels = 0;
  bool encoder = true;  // the skip's 1x1 weight and a pixel norm come first, or last
  Resample resample = Resample::keep;
  bool attention = false;
  int64_t channels_per_head = 64;  // narrower blocks have no head at all
  double dropout = 0;
  double res_balance = 0.3, attn_balance = 0.3;
  double clip_act = 256;  // 0: off
  std::vector<double> resample_filter = {1, 1};
};

// Residual block: emb_gain, conv_res0, emb_linear, conv_res1, [conv_skip], [attn_qkv,
// attn_proj]. Cosine attention: queries, keys and values have unit magnitude; they
// interleave as 3c + {q, k, v} within each head.
class MpBlock : public torch::nn::Module {
 public:
  // `path` names the block in dropout streams.
  MpBlock(int64_t in, int64_t out, MpBlockOptions options, std::string path);
  // x [B, in, H, W], emb [B, emb_channels] -> [B, out, H', W'].
  Dual forward(const Dual& x, const Dual& emb, const Context& context) const;
  // For an input of height x width.
  double multiply_adds(int64_t height, int64_t width) const;

  int64_t in_channels() const { return in_; }
  int64_t out_channels() const { return out_; }

  at::Tensor emb_gain;  // scalar, starts at 0

 private:
  Dual attend(const Dual& x) const;

  int64_t in_, out_, heads_ = 0;
  MpBlockOptions options_;
  std::string path_;
  std::shared_ptr<MpConv> conv_res0_, emb_linear_, conv_res1_, conv_skip_;
  std::shared_ptr<MpConv> attn_qkv_, attn_proj_;
};

}  // namespace flowmap
