#include "flowmap/nn/unet_block.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <span>
#include <vector>

#include "flowmap/nn/gradient_checkpointing.h"
#include "flowmap/ops.h"

namespace flowmap {
namespace {
constexpr double kQkNormEps = 1e-4;  // as EDM2's networks
}

UNetBlock::UNetBlock(int64_t in, int64_t out, UNetBlockOptions options, std::string path)
    : in_(in), out_(out), options_(std::move(options)), path_(std::move(path)) {
  const UNetBlockOptions& o = options_;
  if (o.attention) heads_ = o.num_heads > 0 ? o.num_heads : out / o.channels_per_head;
  const auto conv = [&](const char* name, int64_t c_in, int64_t c_out, int64_t kernel,
                        bool resample, const Init& init) {
    Conv2dOptions c;
    c.kernel = kernel;
    c.up = resample && o.up;
    c.down = resample && o.down;
    c.resample_filter = o.resample_filter;
    c.init = init;
    return register_module(name, std::make_shared<Conv2d>(c_in, c_out, c));
  };
  const auto norm = [&](const char* name, int64_t channels) {
    return register_module(name, std::make_shared<GroupNorm>(channels, o.eps));
  };
  norm0_ = norm("norm0", in);
  conv0_ = conv("conv0", in, out, 3, true, o.init);
  affine_ = register_module(
      "affine", std::make_shared<Linear>(o.emb_channels, out * (o.adaptive_scale ? 2 : 1),
                                         o.init));
  norm1_ = norm("norm1", out);
  conv1_ = conv("conv1", out, out, 3, false, o.init_zero);
  if (in != out || o.up || o.down)
    skip_ = conv("skip", in, out, o.resample_proj || in != out ? 1 : 0, true, o.init);
  if (heads_ > 0) {
    norm2_ = norm("norm2", out);
    qkv_ = conv("qkv", out, 3 * out, 1, false, o.init_attn);
    proj_ = conv("proj", out, out, 1, false, o.init_zero);
  }
}

Dual UNetBlock::forward(const Dual& x, const Dual& emb, const Context& context,
                        const Dual& skip) const {
  std::vector<Dual> inputs = {emb, x};
  if (skip.defined()) inputs.push_back(skip);
  // Joined inside: what is kept are the maps themselves, which other blocks keep too.
  return checkpointed(context, *this, inputs,
                      [this](std::span<const Dual> in, const Context& inner) {
                        const auto maps = in.subspan(1);
                        return evaluate(maps.size() > 1 ? ops::cat(maps, 1) : maps[0],
                                        in[0], inner);
                      });
}

Dual UNetBlock::evaluate(const Dual& x, const Dual& emb, const Context& context) const {
  Dual y = conv0_->forward(ops::silu(norm0_->forward(x)));
  const Dual params = affine_->forward(emb);
  const std::array<int64_t, 4> column = {params.value.size(0), params.value.size(1), 1, 1};
  const Dual shifts = ops::reshape(params, column);
  if (options_.adaptive_scale) {
    const std::vector<Dual> parts = ops::chunk(shifts, 2, 1);
    y = norm1_->forward(y) * ops::add_scalar(parts[0], 1) + parts[1];
  } else {
    y = norm1_->forward(y + shifts);
  }
  y = dropout(ops::silu(y), options_.dropout, path_ + ".dropout", context);
  y = conv1_->forward(y) + (skip_ ? skip_->forward(x) : x);
  if (options_.skip_scale != 1) y = ops::scale(y, options_.skip_scale);
  return heads_ > 0 ? attend(y) : y;
}

Dual UNetBlock::attend(const Dual& x) const {
  const auto size = x.value.sizes();
  const int64_t depth = out_ / heads_;
  const std::array<int64_t, 4> split = {size[0] * heads_, depth, 3, size[2] * size[3]};
  std::vector<Dual> qkv =
      ops::unbind(ops::reshape(qkv_->forward(norm2_->forward(x)), split), 2);
  if (options_.qk_norm) {
    const std::array<int64_t, 1> depth_of_head = {1};
    for (std::size_t i : {0, 1})
      qkv[i] = ops::rms_normalize(qkv[i], depth_of_head, kQkNormEps);
  }
  const auto tokens = [](const Dual& a) { return ops::transpose(a, 1, 2); };
  const Dual mixed =
      ops::attention(tokens(qkv[0]), tokens(qkv[1]), tokens(qkv[2]),
                     1 / std::sqrt(static_cast<double>(depth)));
  const std::array<int64_t, 4> image = {size[0], size[1], size[2], size[3]};
  // As a view it would look channels-last, and every later layer would follow suit, which
  // is slower on CPUs (LibTorch's group norm).
  const Dual pixels = ops::in_memory_order(ops::reshape(tokens(mixed), image),
                                           x.value.suggest_memory_format());
  const Dual y = proj_->forward(pixels) + x;
  return options_.skip_scale != 1 ? ops::scale(y, options_.skip_scale) : y;
}

double UNetBlock::multiply_adds(int64_t height, int64_t width) const {
  const int64_t h = options_.up ? height * 2 : options_.down ? height / 2 : height;
  const int64_t w = options_.up ? width * 2 : options_.down ? width / 2 : width;
  double total = conv0_->multiply_adds(height, width) + affine_->multiply_adds() +
                 conv1_->multiply_adds(h, w);
  if (skip_) total += skip_->multiply_adds(height, width);
  if (heads_ > 0) {
    const double pixels = static_cast<double>(h * w);
    total += qkv_->multiply_adds(h, w) + proj_->multiply_adds(h, w) +
             2 * pixels * pixels * static_cast<double>(out_);
  }
  return total;
}

}  // namespace flowmap
