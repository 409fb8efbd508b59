// The layers of DiT (Peebles & Xie 2023, "Scalable Diffusion Models with Transformers",
// arXiv 2212.09748) and SiT (Ma et al. 2024, arXiv 2401.08740), under the parameter names
// of their published networks. D is the width, N the number of tokens (patches).
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "flowmap/dual.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/layers.h"

namespace flowmap {

// Normalisation of queries and keys within each head, with learned gains: none (DiT, SiT),
// layer (LayerNorm, eps 1e-5, as REPA's SiT, arXiv 2410.06940), rms (root mean square,
// eps 1e-6, as LightningDiT, arXiv 2501.01423).
enum class QkNorm { none, layer, rms };

// weight [n], and bias [n] for QkNorm::layer.
class HeadNorm : public torch::nn::Module {
 public:
  HeadNorm(int64_t n, QkNorm kind);
  Dual forward(const Dual& x) const;  // [..., n]

 private:
  QkNorm kind_;
  at::Tensor weight_, bias_;
};

// Self-attention of tokens: qkv, q_norm and k_norm where asked for, proj.
class TokenAttention : public torch::nn::Module {
 public:
  // `heads` divides `width`.
  TokenAttention(int64_t width, int64_t heads, QkNorm norm = QkNorm::none);
  Dual forward(const Dual& x) const;  // [B, N, D]
  double multiply_adds(int64_t tokens) const;

 private:
  int64_t width_, heads_;
  std::shared_ptr<Linear> qkv_, proj_;
  std::shared_ptr<HeadNorm> q_norm_, k_norm_;
};

// fc1, GELU (tanh form), fc2.
class TokenMlp : public torch::nn::Module {
 public:
  TokenMlp(int64_t width, int64_t hidden);
  Dual forward(const Dual& x) const;  // [B, N, D]
  double multiply_adds(int64_t tokens) const;

 private:
  std::shared_ptr<Linear> fc1_, fc2_;
};

// SiLU and a linear layer that starts at zero (adaLN-zero): n vectors of size D for each
// sample, shaped [B, 1, D]. Parameters adaLN_modulation.1.*.
class Modulation : public torch::nn::Module {
 public:
  Modulation(int64_t width, int64_t n);
  std::vector<Dual> forward(const Dual& c) const;  // c [B, D]
  double multiply_adds() const { return linear_->multiply_adds(); }

 private:
  int64_t n_;
  std::shared_ptr<Linear> linear_;
};

// A transformer block with adaLN-zero: layer norms (eps 1e-6) without gains, scaled,
// shifted and gated by what the condition says.
class DitBlock : public torch::nn::Module {
 public:
  DitBlock(int64_t width, int64_t heads, double mlp_ratio, QkNorm norm = QkNorm::none);
  Dual forward(const Dual& x, const Dual& c) const;  // x [B, N, D], c [B, D]
  double multiply_adds(int64_t tokens) const;

 private:
  std::shared_ptr<TokenAttention> attn_;
  std::shared_ptr<TokenMlp> mlp_;
  std::shared_ptr<Modulation> modulation_;
};

// Tokens [B, N, D] to patches [B, N, patch^2 out_channels]; starts at zero.
class DitFinalLayer : public torch::nn::Module {
 public:
  DitFinalLayer(int64_t width, int64_t patch, int64_t out_channels);
  Dual forward(const Dual& x, const Dual& c) const;
  double multiply_adds(int64_t tokens) const;

 private:
  std::shared_ptr<Linear> linear_;
  std::shared_ptr<Modulation> modulation_;
};

// proj.weight [D, C, patch, patch], proj.bias [D]: a convolution of stride `patch`.
class PatchEmbed : public torch::nn::Module {
 public:
  PatchEmbed(int64_t channels, int64_t width, int64_t patch);
  // [B, C, H, W] -> [B, (H/patch) (W/patch), D], row by row.
  Dual forward(const Dual& x) const;
  double multiply_adds(int64_t tokens) const;

 private:
  class Projection;
  int64_t patch_;
  std::shared_ptr<Projection> proj_;
};

// [cos(t f), sin(t f)], f_k = max_period^(-k / half), and a zero where the size is odd;
// then linear, SiLU, linear (mlp.0, mlp.2).
class TimestepEmbedder : public torch::nn::Module {
 public:
  // `starts_at_zero`: the last layer does, so that this time counts for nothing at first.
  TimestepEmbedder(int64_t width, int64_t frequency_size, double max_period,
                   bool starts_at_zero = false);
  Dual features(const Dual& time) const;  // [B] -> [B, frequency_size]
  Dual forward(const Dual& time) const;   // [B] -> [B, D]
  double multiply_adds() const;

 private:
  bool odd_;
  PositionalEmbedding waves_;
  std::shared_ptr<Linear> first_, second_;
};

// embedding_table.weight [label_dim (+ 1), D]; the last row is the null class's where
// there is one.
class LabelEmbedder : public torch::nn::Module {
 public:
  LabelEmbedder(int64_t label_dim, int64_t width, bool null_class);
  // [B, label_dim], one-hot or soft (rows of the table mix) -> [B, D]. Rows of zeros give
  // the null class, or zeros where there is none.
  at::Tensor forward(const at::Tensor& labels) const;
  bool has_null_class() const { return null_class_; }
  double multiply_adds() const;

 private:
  class Table;
  bool null_class_;
  std::shared_ptr<Table> table_;
};

// Fixed sine-cosine positions, float64 [1, rows * columns, width]: the first half of the
// channels tells the column, the second the row. width must be a multiple of 4.
at::Tensor sincos_positions(int64_t width, int64_t rows, int64_t columns);

// [B, rows * columns, patch^2 C], channels last within a patch, -> [B, C, H, W].
Dual unpatchify(const Dual& tokens, int64_t patch, int64_t rows, int64_t columns);

}  // namespace flowmap
