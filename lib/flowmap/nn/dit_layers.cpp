#include "flowmap/nn/dit_layers.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

constexpr double kDitEps = 1e-6;
const Init kDitInit = {InitMode::xavier_uniform, 1, 0};
const Init kDitInitZero = {InitMode::xavier_uniform, 0, 0};

// Normal with deviation 0.02, whatever the fan.
Init small_normal(int64_t fan_in) {
  return {InitMode::kaiming_normal, 0.02 * std::sqrt(static_cast<double>(fan_in)), 0};
}

// A module that only names its children ("mlp.0").
class DitPath : public torch::nn::Module {};

Dual modulate(const Dual& x, const Dual& shift, const Dual& scale) {
  return ops::layer_norm(x, {}, {}, kDitEps) * ops::add_scalar(scale, 1) + shift;
}

}  // namespace

HeadNorm::HeadNorm(int64_t n, QkNorm kind) : kind_(kind) {
  weight_ = register_parameter("weight", at::ones({n}, weight_options()));
  if (kind == QkNorm::layer)
    bias_ = register_parameter("bias", at::zeros({n}, weight_options()));
}

Dual HeadNorm::forward(const Dual& x) const {
  if (kind_ == QkNorm::layer) return ops::layer_norm(x, weight_, bias_, 1e-5);
  const std::array<int64_t, 1> last = {x.value.dim() - 1};
  const Dual square = ops::mean(x * x, last, true);
  return ops::div(x, ops::sqrt(ops::add_scalar(square, 1e-6))) * Dual(weight_);
}

TokenAttention::TokenAttention(int64_t width, int64_t heads, QkNorm norm)
    : width_(width), heads_(heads) {
  FM_CHECK(width % heads == 0, heads, " heads do not divide ", width, " channels");
  qkv_ = register_module("qkv", std::make_shared<Linear>(width, 3 * width, kDitInit));
  if (norm != QkNorm::none) {
    const int64_t n = width / heads;
    q_norm_ = register_module("q_norm", std::make_shared<HeadNorm>(n, norm));
    k_norm_ = register_module("k_norm", std::make_shared<HeadNorm>(n, norm));
  }
  proj_ = register_module("proj", std::make_shared<Linear>(width, width, kDitInit));
}

Dual TokenAttention::forward(const Dual& x) const {
  const int64_t batch = x.value.size(0), tokens = x.value.size(1), n = width_ / heads_;
  const std::array<int64_t, 5> split = {batch, tokens, 3, heads_, n};
  const std::array<int64_t, 5> order = {2, 0, 3, 1, 4};
  std::vector<Dual> parts =
      ops::unbind(ops::permute(ops::reshape(qkv_->forward(x), split), order), 0);
  if (q_norm_) {
    parts[0] = q_norm_->forward(parts[0]);
    parts[1] = k_norm_->forward(parts[1]);
  }
  const Dual mixed = ops::attention(parts[0], parts[1], parts[2],
                                    1 / std::sqrt(static_cast<double>(n)));
  const std::array<int64_t, 3> joined = {batch, tokens, width_};
  return proj_->forward(ops::reshape(ops::transpose(mixed, 1, 2), joined));
}

double TokenAttention::multiply_adds(int64_t tokens) const {
  const double n = static_cast<double>(tokens);
  return n * (qkv_->multiply_adds() + proj_->multiply_adds()) +
         2 * n * n * static_cast<double>(width_);
}

TokenMlp::TokenMlp(int64_t width, int64_t hidden) {
  fc1_ = register_module("fc1", std::make_shared<Linear>(width, hidden, kDitInit));
  fc2_ = register_module("fc2", std::make_shared<Linear>(hidden, width, kDitInit));
}

Dual TokenMlp::forward(const Dual& x) const {
  return fc2_->forward(ops::gelu(fc1_->forward(x), ops::GeluForm::tanh));
}

double TokenMlp::multiply_adds(int64_t tokens) const {
  return static_cast<double>(tokens) * (fc1_->multiply_adds() + fc2_->multiply_adds());
}

Modulation::Modulation(int64_t width, int64_t n) : n_(n) {
  linear_ = register_module("1", std::make_shared<Linear>(width, n * width, kDitInitZero));
}

std::vector<Dual> Modulation::forward(const Dual& c) const {
  const Dual all = linear_->forward(ops::silu(c));
  const std::array<int64_t, 3> row = {all.value.size(0), 1, all.value.size(1)};
  return ops::chunk(ops::reshape(all, row), n_, 2);
}

DitBlock::DitBlock(int64_t width, int64_t heads, double mlp_ratio, QkNorm norm) {
  const auto hidden = static_cast<int64_t>(static_cast<double>(width) * mlp_ratio);
  attn_ = register_module("attn", std::make_shared<TokenAttention>(width, heads, norm));
  mlp_ = register_module("mlp", std::make_shared<TokenMlp>(width, hidden));
  modulation_ =
      register_module("adaLN_modulation", std::make_shared<Modulation>(width, 6));
}

Dual DitBlock::forward(const Dual& x, const Dual& c) const {
  // Shift, scale and gate of the attention, then of the perceptron.
  const std::vector<Dual> m = modulation_->forward(c);
  const Dual y = x + m[2] * attn_->forward(modulate(x, m[0], m[1]));
  return y + m[5] * mlp_->forward(modulate(y, m[3], m[4]));
}

double DitBlock::multiply_adds(int64_t tokens) const {
  return attn_->multiply_adds(tokens) + mlp_->multiply_adds(tokens) +
         modulation_->multiply_adds();
}

DitFinalLayer::DitFinalLayer(int64_t width, int64_t patch, int64_t out_channels) {
  linear_ = register_module("linear",
                            std::make_shared<Linear>(width, patch * patch * out_channels,
                                                     kDitInitZero));
  modulation_ =
      register_module("adaLN_modulation", std::make_shared<Modulation>(width, 2));
}

Dual DitFinalLayer::forward(const Dual& x, const Dual& c) const {
  const std::vector<Dual> m = modulation_->forward(c);
  return linear_->forward(modulate(x, m[0], m[1]));
}

double DitFinalLayer::multiply_adds(int64_t tokens) const {
  return static_cast<double>(tokens) * linear_->multiply_adds() +
         modulation_->multiply_adds();
}

class PatchEmbed::Projection : public torch::nn::Module, public Initialised {
 public:
  Projection(int64_t channels, int64_t width, int64_t patch) {
    weight = register_parameter(
        "weight", at::zeros({width, channels, patch, patch}, weight_options()));
    bias = register_parameter("bias", at::zeros({width}, weight_options()));
  }
  void initialise(std::uint64_t seed, const std::string& name) override {
    const int64_t width = weight.size(0);
    weight.copy_(draw_init(seed, name + ".weight", weight.sizes(), weight.numel() / width,
                           width, InitMode::xavier_uniform));
    bias.zero_();
  }

  at::Tensor weight, bias;
};

PatchEmbed::PatchEmbed(int64_t channels, int64_t width, int64_t patch) : patch_(patch) {
  proj_ = register_module("proj", std::make_shared<Projection>(channels, width, patch));
}

// As a matrix product over patches: the same numbers, and a tangent rides in its batch.
Dual PatchEmbed::forward(const Dual& x) const {
  const auto size = x.value.sizes();
  const int64_t p = patch_, rows = size[2] / p, columns = size[3] / p;
  const std::array<int64_t, 6> split = {size[0], size[1], rows, p, columns, p};
  const std::array<int64_t, 6> order = {0, 2, 4, 1, 3, 5};
  const std::array<int64_t, 3> merged = {size[0], rows * columns, size[1] * p * p};
  const Dual patches = ops::reshape(ops::permute(ops::reshape(x, split), order), merged);
  return ops::linear(patches, proj_->weight.flatten(1), proj_->bias);
}

double PatchEmbed::multiply_adds(int64_t tokens) const {
  return static_cast<double>(tokens * proj_->weight.numel());
}

TimestepEmbedder::TimestepEmbedder(int64_t width, int64_t frequency_size,
                                   double max_period, bool starts_at_zero)
    : odd_(frequency_size % 2 == 1),
      waves_(frequency_size - (odd_ ? 1 : 0), false, max_period) {
  auto mlp = register_module("mlp", std::make_shared<DitPath>());
  first_ = mlp->register_module(
      "0", std::make_shared<Linear>(frequency_size, width, small_normal(frequency_size)));
  second_ = mlp->register_module(
      "2", std::make_shared<Linear>(width, width,
                                    starts_at_zero ? kDitInitZero : small_normal(width)));
}

Dual TimestepEmbedder::features(const Dual& time) const {
  const Dual waves = waves_.forward(time);
  if (!odd_) return waves;
  const std::array<Dual, 2> parts = {
      waves, Dual(at::zeros({time.value.size(0), 1}, waves.value.options()))};
  return ops::cat(parts, 1);
}

Dual TimestepEmbedder::forward(const Dual& time) const {
  return second_->forward(ops::silu(first_->forward(features(time))));
}

double TimestepEmbedder::multiply_adds() const {
  return first_->multiply_adds() + second_->multiply_adds();
}

class LabelEmbedder::Table : public torch::nn::Module, public Initialised {
 public:
  Table(int64_t rows, int64_t width) {
    weight = register_parameter("weight", at::zeros({rows, width}, weight_options()));
  }
  void initialise(std::uint64_t seed, const std::string& name) override {
    weight.copy_(draw_init(seed, name + ".weight", weight.sizes(), 1, 1,
                           InitMode::kaiming_normal).mul_(0.02));
  }

  at::Tensor weight;
};

LabelEmbedder::LabelEmbedder(int64_t label_dim, int64_t width, bool null_class)
    : null_class_(null_class) {
  const int64_t rows = label_dim + (null_class ? 1 : 0);
  table_ = register_module("embedding_table", std::make_shared<Table>(rows, width));
}

at::Tensor LabelEmbedder::forward(const at::Tensor& labels) const {
  if (!null_class_) return at::matmul(labels, table_->weight);
  const at::Tensor none = labels.eq(0).all(1, /*keepdim=*/true).to(labels.scalar_type());
  return at::matmul(at::cat({labels, none}, 1), table_->weight);
}

double LabelEmbedder::multiply_adds() const {
  return static_cast<double>(table_->weight.numel());
}

at::Tensor sincos_positions(int64_t width, int64_t rows, int64_t columns) {
  FM_CHECK(width % 4 == 0, "sine-cosine positions: width ", width,
           " is not a multiple of 4");
  const int64_t quarter = width / 4;
  const at::Tensor frequencies =
      at::exp(at::arange(quarter, at::kDouble) *
              (-std::log(10000.0) / static_cast<double>(quarter)));
  const auto along = [&](int64_t n) {
    const at::Tensor angle = at::outer(at::arange(n, at::kDouble), frequencies);
    return at::cat({at::sin(angle), at::cos(angle)}, 1);
  };
  const at::Tensor column = along(columns).unsqueeze(0).expand({rows, columns, -1});
  const at::Tensor row = along(rows).unsqueeze(1).expand({rows, columns, -1});
  return at::cat({column, row}, 2).reshape({1, rows * columns, width});
}

Dual unpatchify(const Dual& tokens, int64_t patch, int64_t rows, int64_t columns) {
  const int64_t batch = tokens.value.size(0);
  const int64_t channels = tokens.value.size(2) / (patch * patch);
  const std::array<int64_t, 6> split = {batch, rows, columns, patch, patch, channels};
  const std::array<int64_t, 6> order = {0, 5, 1, 3, 2, 4};
  const std::array<int64_t, 4> merged = {batch, channels, rows * patch, columns * patch};
  return ops::reshape(ops::permute(ops::reshape(tokens, split), order), merged);
}

}  // namespace flowmap
