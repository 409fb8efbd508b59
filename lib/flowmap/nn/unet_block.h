// The residual block of EDM's U-Nets (SongUNet and DhariwalUNet).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flowmap/dual.h"
#include "flowmap/network.h"
#include "flowmap/nn/layers.h"

namespace flowmap {

struct UNetBlockOptions {
  int64_t emb_channels = 0;
  bool up = false, down = false;
  bool attention = false;
  // Heads where `attention` is set; 0: out_channels / channels_per_head of them (none,
  // and so no attention, in narrower blocks).
  int64_t num_heads = 0;
  int64_t channels_per_head = 64;
  // Queries and keys of unit root mean square before their products, which bounds the
  // logits (Karras et al. 2024, section 2.3); no parameters.
  bool qk_norm = false;
  double dropout = 0;
  double skip_scale = 1;  // applied after the residual sum, and again after attention
  double eps = 1e-5;      // of the group norms
  std::vector<double> resample_filter = {1, 1};
  bool resample_proj = false;   // the skip has a 1x1 weight whenever it resamples
  bool adaptive_scale = true;   // the embedding scales and shifts, or only shifts
  Init init, init_zero, init_attn;
};

// Parameters norm0, conv0, affine, norm1, conv1, [skip], [norm2, qkv, proj]; the channels
// of qkv interleave as 3c + {q, k, v} within each head.
class UNetBlock : public torch::nn::Module {
 public:
  // `path` names the block in dropout streams.
  UNetBlock(int64_t in, int64_t out, UNetBlockOptions options, std::string path);
  // x [B, in, H, W], emb [B, emb_channels] -> [B, out, H', W']. Where `skip` is given, its
  // channels follow those of x, and there are `in` together. Computed again for
  // gradients where the context says so.
  Dual forward(const Dual& x, const Dual& emb, const Context& context,
               const Dual& skip = {}) const;
  // For an input of height x width.
  double multiply_adds(int64_t height, int64_t width) const;

  int64_t in_channels() const { return in_; }
  int64_t out_channels() const { return out_; }
  int64_t heads() const { return heads_; }

 private:
  Dual evaluate(const Dual& x, const Dual& emb, const Context& context) const;
  Dual attend(const Dual& x) const;

  int64_t in_, out_, heads_ = 0;
  UNetBlockOptions options_;
  std::string path_;
  std::shared_ptr<GroupNorm> norm0_, norm1_, norm2_;
  std::shared_ptr<Conv2d> conv0_, conv1_, skip_, qkv_, proj_;
  std::shared_ptr<Linear> affine_;
};

}  // namespace flowmap
