#include "flowmap/nn/unet2d_blocks.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "flowmap/ops.h"

namespace flowmap {

Init unet2d_init() {
  return {InitMode::kaiming_uniform, std::sqrt(1.0 / 3), std::sqrt(1.0 / 3)};
}

namespace {

std::shared_ptr<Conv2d> unet2d_conv(int64_t in, int64_t out, int64_t kernel) {
  Conv2dOptions options;
  options.kernel = kernel;
  options.init = unet2d_init();
  return std::make_shared<Conv2d>(in, out, options);
}

std::shared_ptr<GroupNorm> unet2d_norm(int64_t channels, int64_t groups, double eps) {
  return std::make_shared<GroupNorm>(channels, eps, groups, 1);
}

Dual divided(const Dual& x, double divisor) {
  return divisor == 1 ? x : ops::scale(x, 1 / divisor);
}

}  // namespace

UNet2dLabels::UNet2dLabels(int64_t rows, int64_t width) {
  weight = register_parameter("weight", at::zeros({rows, width}, weight_options()));
}

at::Tensor UNet2dLabels::forward(const at::Tensor& labels) const {
  return at::matmul(labels, weight);
}

void UNet2dLabels::initialise(std::uint64_t seed, const std::string& name) {
  weight.copy_(draw_init(seed, name + ".weight", weight.sizes(), 1, 1,
                         InitMode::kaiming_normal));
}

UNet2dTimeMlp::UNet2dTimeMlp(int64_t in, int64_t width, const Init& last) {
  linear_1_ =
      register_module("linear_1", std::make_shared<Linear>(in, width, unet2d_init()));
  linear_2_ = register_module("linear_2", std::make_shared<Linear>(width, width, last));
}

Dual UNet2dTimeMlp::forward(const Dual& features) const {
  return linear_2_->forward(ops::silu(linear_1_->forward(features)));
}

double UNet2dTimeMlp::multiply_adds() const {
  return linear_1_->multiply_adds() + linear_2_->multiply_adds();
}

UNet2dResnet::UNet2dResnet(int64_t in, int64_t out, const UNet2dBlockOptions& options,
                           std::string path)
    : options_(options), path_(std::move(path)) {
  const UNet2dBlockOptions& o = options_;
  norm1_ = register_module("norm1", unet2d_norm(in, o.groups, o.eps));
  conv1_ = register_module("conv1", unet2d_conv(in, out, 3));
  time_emb_proj_ = register_module(
      "time_emb_proj",
      std::make_shared<Linear>(o.emb_channels, out * (o.scale_shift ? 2 : 1),
                               unet2d_init()));
  norm2_ = register_module("norm2", unet2d_norm(out, o.groups, o.eps));
  conv2_ = register_module("conv2", unet2d_conv(out, out, 3));
  if (in != out) conv_shortcut_ = register_module("conv_shortcut", unet2d_conv(in, out, 1));
}

Dual UNet2dResnet::forward(const Dual& x, const Dual& emb, const Context& context) const {
  Dual y = conv1_->forward(ops::silu(norm1_->forward(x)));
  const Dual params = time_emb_proj_->forward(emb);
  const std::array<int64_t, 4> column = {params.value.size(0), params.value.size(1), 1, 1};
  const Dual shifts = ops::reshape(params, column);
  if (options_.scale_shift) {
    const std::vector<Dual> parts = ops::chunk(shifts, 2, 1);
    y = norm2_->forward(y) * ops::add_scalar(parts[0], 1) + parts[1];
  } else {
    y = norm2_->forward(y + shifts);
  }
  y = dropout(ops::silu(y), options_.dropout, path_ + ".dropout", context);
  y = conv2_->forward(y) + (conv_shortcut_ ? conv_shortcut_->forward(x) : x);
  return divided(y, options_.output_divisor);
}

double UNet2dResnet::multiply_adds(int64_t height, int64_t width) const {
  double total = conv1_->multiply_adds(height, width) + time_emb_proj_->multiply_adds() +
                 conv2_->multiply_adds(height, width);
  if (conv_shortcut_) total += conv_shortcut_->multiply_adds(height, width);
  return total;
}

UNet2dAttention::UNet2dAttention(int64_t channels, int64_t head_channels, int64_t groups,
                                 double eps, double output_divisor)
    : channels_(channels), head_channels_(head_channels), output_divisor_(output_divisor) {
  if (groups > 0)
    group_norm_ = register_module("group_norm", unet2d_norm(channels, groups, eps));
  const auto linear = [&](torch::nn::Module& owner, const char* name) {
    return owner.register_module(
        name, std::make_shared<Linear>(channels, channels, unet2d_init()));
  };
  to_q_ = linear(*this, "to_q");
  to_k_ = linear(*this, "to_k");
  to_v_ = linear(*this, "to_v");
  to_out_ = linear(*register_module("to_out", std::make_shared<UNet2dPath>()), "0");
}

Dual UNet2dAttention::forward(const Dual& x) const {
  const auto size = x.value.sizes();
  const int64_t heads = channels_ / head_channels_, pixels = size[2] * size[3];
  const std::array<int64_t, 3> rows = {size[0], channels_, pixels};
  const std::array<int64_t, 4> split = {size[0], pixels, heads, head_channels_};
  const std::array<int64_t, 3> joined = {size[0], pixels, channels_};
  const Dual normed = group_norm_ ? group_norm_->forward(x) : x;
  const Dual tokens = ops::transpose(ops::reshape(normed, rows), 1, 2);
  const auto by_head = [&](const Linear& layer) {
    return ops::transpose(ops::reshape(layer.forward(tokens), split), 1, 2);
  };
  const Dual mixed =
      ops::attention(by_head(*to_q_), by_head(*to_k_), by_head(*to_v_),
                     1 / std::sqrt(static_cast<double>(head_channels_)));
  const Dual out = to_out_->forward(ops::reshape(ops::transpose(mixed, 1, 2), joined));
  // As a view it would look channels-last, and every later layer would follow suit.
  const Dual image = ops::in_memory_order(ops::reshape(ops::transpose(out, 1, 2), size),
                                          x.value.suggest_memory_format());
  return divided(image + x, output_divisor_);
}

double UNet2dAttention::multiply_adds(int64_t height, int64_t width) const {
  const double pixels = static_cast<double>(height * width);
  return pixels * (4 * to_q_->multiply_adds()) +
         2 * pixels * pixels * static_cast<double>(channels_);
}

}  // namespace flowmap
