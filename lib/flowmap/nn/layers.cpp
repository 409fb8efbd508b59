#include "flowmap/nn/layers.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

std::string layer_member(const std::string& layer, const char* member) {
  return layer.empty() ? member : layer + "." + member;
}

void draw_into(at::Tensor& parameter, double factor, std::uint64_t seed,
               const std::string& name, int64_t fan_in, int64_t fan_out, InitMode mode) {
  if (!parameter.defined()) return;
  if (factor == 0)
    parameter.zero_();
  else
    parameter.copy_(
        draw_init(seed, name, parameter.sizes(), fan_in, fan_out, mode).mul_(factor));
}

// t f: [B] times [half] -> [B, half].
Dual outer_product(const Dual& time, const at::Tensor& frequencies) {
  const std::array<int64_t, 2> column = {time.value.size(0), 1};
  return ops::mul(ops::reshape(time, column), Dual(frequencies.unsqueeze(0)));
}

Dual cos_sin(const Dual& angle) {
  const std::array<Dual, 2> parts = {ops::cos(angle), ops::sin(angle)};
  return ops::cat(parts, 1);
}

}  // namespace

Linear::Linear(int64_t in, int64_t out, Init init, bool with_bias) : init_(init) {
  weight = register_parameter("weight", at::zeros({out, in}, weight_options()));
  if (with_bias)
    bias = register_parameter("bias", at::zeros({out}, weight_options()));
}

Dual Linear::forward(const Dual& x) const { return ops::linear(x, weight, bias); }

void Linear::initialise(std::uint64_t seed, const std::string& name) {
  const int64_t fan_in = weight.size(1), fan_out = weight.size(0);
  draw_into(weight, init_.weight, seed, layer_member(name, "weight"), fan_in, fan_out,
            init_.mode);
  draw_into(bias, init_.bias, seed, layer_member(name, "bias"), fan_in, fan_out,
            init_.mode);
}

double Linear::multiply_adds() const { return static_cast<double>(weight.numel()); }

Conv2d::Conv2d(int64_t in, int64_t out, Conv2dOptions options)
    : in_(in), out_(out), options_(std::move(options)) {
  const int64_t k = options_.kernel;
  FM_CHECK(!(options_.up && options_.down), "a convolution cannot go up and down");
  FM_CHECK(k == 0 || k % 2 == 1, "kernel ", k, ": must be odd, or 0");
  FM_CHECK(k != 0 || in == out, "kernel 0 keeps ", in, " channels, not ", out);
  if (k > 0) {
    weight = register_parameter("weight", at::zeros({out, in, k, k}, weight_options()));
    if (options_.bias)
      bias = register_parameter("bias", at::zeros({out}, weight_options()));
  }
  if (options_.up || options_.down) {
    const at::Tensor taps = at::tensor(options_.resample_filter, at::kDouble);
    const at::Tensor filter = at::outer(taps, taps) / taps.sum().square();
    resample_filter = register_buffer(
        "resample_filter", filter.to(at::kFloat).unsqueeze(0).unsqueeze(0));
  }
}

Dual Conv2d::forward(const Dual& x) const {
  const int64_t w_pad = options_.kernel / 2;
  if (!resample_filter.defined()) return ops::conv2d(x, weight, bias, w_pad);
  const int64_t f_pad = (resample_filter.size(-1) - 1) / 2;
  const bool fused = options_.fused_resample && weight.defined();
  // One filter a channel.
  const auto filter = [&](int64_t channels) {
    return resample_filter.expand({channels, -1, -1, -1});
  };
  if (options_.up) {
    // Zeros between the pixels quarter the mean; the factor 4 restores it.
    const Dual wide =
        ops::conv_transpose2d(x, filter(in_) * 4, {},
                              fused ? std::max<int64_t>(f_pad - w_pad, 0) : f_pad, 2, in_);
    if (!weight.defined()) return wide;
    return ops::conv2d(wide, weight, bias,
                       fused ? std::max<int64_t>(w_pad - f_pad, 0) : w_pad);
  }
  if (fused) {
    const Dual full = ops::conv2d(x, weight, {}, w_pad + f_pad);
    return ops::conv2d(full, filter(out_), bias, 0, 2, out_);
  }
  const Dual narrow = ops::conv2d(x, filter(in_), {}, f_pad, 2, in_);
  return weight.defined() ? ops::conv2d(narrow, weight, bias, w_pad) : narrow;
}

void Conv2d::initialise(std::uint64_t seed, const std::string& name) {
  const int64_t area = options_.kernel * options_.kernel;
  const int64_t fan_in = in_ * area, fan_out = out_ * area;
  draw_into(weight, options_.init.weight, seed, layer_member(name, "weight"), fan_in,
            fan_out, options_.init.mode);
  draw_into(bias, options_.init.bias, seed, layer_member(name, "bias"), fan_in, fan_out,
            options_.init.mode);
}

double Conv2d::multiply_adds(int64_t height, int64_t width) const {
  const double in_pixels = static_cast<double>(height * width);
  const double out_pixels =
      options_.up ? in_pixels * 4 : options_.down ? in_pixels / 4 : in_pixels;
  // A fused convolution going down works before the resampling.
  const bool before = options_.fused_resample && options_.down && weight.defined();
  double total = 0;
  if (weight.defined())
    total += static_cast<double>(weight.numel()) * (before ? in_pixels : out_pixels);
  if (resample_filter.defined())
    total += static_cast<double>(resample_filter.numel() * (before ? out_ : in_)) *
             std::min(in_pixels, out_pixels);
  return total;
}

GroupNorm::GroupNorm(int64_t channels, double eps, int64_t max_groups,
                     int64_t min_channels_per_group)
    : groups_(std::max<int64_t>(
          1, std::min(max_groups, channels / min_channels_per_group))),
      eps_(eps) {
  while (channels % groups_ != 0) --groups_;
  weight = register_parameter("weight", at::ones({channels}, weight_options()));
  bias = register_parameter("bias", at::zeros({channels}, weight_options()));
}

Dual GroupNorm::forward(const Dual& x) const {
  return ops::group_norm(x, groups_, weight, bias, eps_);
}

PositionalEmbedding::PositionalEmbedding(int64_t channels, bool endpoint,
                                         double max_positions) {
  const int64_t half = channels / 2;
  FM_CHECK_USAGE(channels % 2 == 0 && half > (endpoint ? 1 : 0), "positional embedding: ",
                 channels, " channels; must be even and at least 4");
  const double last = static_cast<double>(half - (endpoint ? 1 : 0));
  frequencies_ =
      at::exp(at::arange(half, at::kDouble) * (-std::log(max_positions) / last));
}

Dual PositionalEmbedding::forward(const Dual& time) const {
  // Kept where it was used last: no copy to the device in every step.
  if (!placed_.defined() || placed_.device() != time.value.device() ||
      placed_.scalar_type() != time.value.scalar_type())
    placed_ = frequencies_.to(time.value.device(), time.value.scalar_type());
  return cos_sin(outer_product(time, placed_));
}

FourierEmbedding::FourierEmbedding(int64_t channels, double scale) : scale_(scale) {
  FM_CHECK_USAGE(channels % 2 == 0 && channels > 0, "Fourier embedding: ", channels,
                 " channels; must be even");
  freqs = register_buffer("freqs", at::zeros({channels / 2}));
}

Dual FourierEmbedding::forward(const Dual& time) const {
  return cos_sin(outer_product(time, freqs * (2 * std::numbers::pi)));
}

void FourierEmbedding::initialise(std::uint64_t seed, const std::string& name) {
  draw_into(freqs, scale_, seed, layer_member(name, "freqs"), 1, 1,
            InitMode::kaiming_normal);
}

namespace {

// Uniforms, one row a sample, on the CPU; undefined where dropout is off.
at::Tensor dropout_uniforms(int64_t rows, at::IntArrayRef row_shape, double rate,
                            const std::string& layer, const Context& context) {
  if (rate <= 0 || !context.train || !context.draw) return {};
  FM_CHECK(context.draw->rows() == rows, "dropout in ", layer, ": the draw has ",
           context.draw->rows(), " rows, the batch ", rows);
  return context.draw->uniform(layer, row_shape);
}

}  // namespace

Dual dropout(const Dual& x, double rate, const std::string& layer,
             const Context& context) {
  const at::Tensor u = dropout_uniforms(x.value.size(0), x.value.sizes().slice(1), rate,
                                        layer, context);
  if (!u.defined()) return x;
  const at::Tensor mask =
      u.ge(rate).to(x.value.device(), x.value.scalar_type()).mul_(1 / (1 - rate));
  return ops::mul(x, Dual(mask));
}

at::Tensor row_dropout(const at::Tensor& like, double rate, const std::string& layer,
                       const Context& context) {
  const at::Tensor u = dropout_uniforms(like.size(0), {}, rate, layer, context);
  if (!u.defined()) return {};
  return u.ge(rate).to(like.device(), like.scalar_type());
}

Dual fold_patches(const Dual& x, int64_t patch) {
  if (patch == 1) return x;
  const auto size = x.value.sizes();
  const int64_t b = size[0], c = size[1], h = size[2] / patch, w = size[3] / patch;
  const std::array<int64_t, 6> split = {b, c, h, patch, w, patch};
  const std::array<int64_t, 6> order = {0, 1, 3, 5, 2, 4};
  const std::array<int64_t, 4> merged = {b, c * patch * patch, h, w};
  return ops::reshape(ops::permute(ops::reshape(x, split), order), merged);
}

Dual unfold_patches(const Dual& x, int64_t patch) {
  if (patch == 1) return x;
  const auto size = x.value.sizes();
  const int64_t b = size[0], c = size[1] / (patch * patch), h = size[2], w = size[3];
  const std::array<int64_t, 6> split = {b, c, patch, patch, h, w};
  const std::array<int64_t, 6> order = {0, 1, 4, 2, 5, 3};
  const std::array<int64_t, 4> merged = {b, c, h * patch, w * patch};
  return ops::reshape(ops::permute(ops::reshape(x, split), order), merged);
}

}  // namespace flowmap
