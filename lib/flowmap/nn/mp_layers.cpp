#include "flowmap/nn/mp_layers.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

// "name.member", or the member alone at the root.
std::string mp_member(const std::string& name, const char* member) {
  return name.empty() ? member : name + "." + member;
}

}  // namespace

at::Tensor normalized_weight(const at::Tensor& weight) {
  std::vector<int64_t> dims(static_cast<std::size_t>(weight.dim() - 1));
  std::iota(dims.begin(), dims.end(), 1);
  return ops::rms_normalize(Dual(weight), dims, kMpEps).value;
}

Dual mp_silu(const Dual& x) { return ops::scale(ops::silu(x), 1 / 0.596); }

Dual mp_sum(const Dual& a, const Dual& b, double t) {
  const double length = std::sqrt((1 - t) * (1 - t) + t * t);
  return ops::scale(a, (1 - t) / length) + ops::scale(b, t / length);
}

Dual mp_cat(const Dual& a, const Dual& b, double t) {
  const double na = static_cast<double>(a.value.size(1));
  const double nb = static_cast<double>(b.value.size(1));
  const double c = std::sqrt((na + nb) / ((1 - t) * (1 - t) + t * t));
  const std::array<Dual, 2> parts = {ops::scale(a, c * (1 - t) / std::sqrt(na)),
                                     ops::scale(b, c * t / std::sqrt(nb))};
  return ops::cat(parts, 1);
}

Dual mp_resample(const Dual& x, std::span<const double> filter, Resample mode) {
  if (mode == Resample::keep) return x;
  const int64_t channels = x.value.size(1);
  const at::Tensor taps = at::tensor(at::ArrayRef<double>(filter.data(), filter.size()),
                                     at::kDouble);
  // Zeros between the pixels quarter the mean; the factor 4 restores it.
  const double factor = mode == Resample::up ? 4 : 1;
  const at::Tensor kernel = (at::outer(taps, taps) * (factor / taps.sum().square()))
                                .to(x.value.options())
                                .expand({channels, 1, -1, -1});
  const int64_t padding = (static_cast<int64_t>(filter.size()) - 1) / 2;
  return mode == Resample::up
             ? ops::conv_transpose2d(x, kernel, {}, padding, 2, channels)
             : ops::conv2d(x, kernel, {}, padding, 2, channels);
}

MpConv::MpConv(int64_t in, int64_t out, int64_t kernel) {
  FM_CHECK(kernel == 0 || kernel % 2 == 1, "kernel ", kernel, ": must be odd, or 0");
  std::vector<int64_t> shape = {out, in};
  if (kernel > 0) shape.insert(shape.end(), {kernel, kernel});
  weight = register_parameter("weight", at::zeros(shape, weight_options()));
}

Dual MpConv::forward(const Dual& x, const at::Tensor& gain) const {
  const double fan_in = static_cast<double>(weight.numel() / weight.size(0));
  at::Tensor w = normalized_weight(weight) * (1 / std::sqrt(fan_in));
  if (gain.defined()) w = w * gain;
  return w.dim() == 2 ? ops::linear(x, w, {}) : ops::conv2d(x, w, {}, w.size(2) / 2);
}

void MpConv::project() {
  const at::NoGradGuard no_grad;
  weight.copy_(normalized_weight(weight));
}

void MpConv::initialise(std::uint64_t seed, const std::string& name) {
  weight.copy_(draw_init(seed, mp_member(name, "weight"), weight.sizes(), 1, 1,
                         InitMode::kaiming_normal));
}

double MpConv::multiply_adds(int64_t pixels) const {
  return static_cast<double>(weight.numel()) * static_cast<double>(pixels);
}

MpFourier::MpFourier(int64_t channels, double bandwidth) : bandwidth_(bandwidth) {
  freqs = register_buffer("freqs", at::zeros({channels}, weight_options()));
  phases = register_buffer("phases", at::zeros({channels}, weight_options()));
}

Dual MpFourier::forward(const Dual& time) const {
  const std::array<int64_t, 2> column = {time.value.size(0), 1};
  const Dual angle = ops::reshape(time, column) * Dual(freqs) + Dual(phases);
  return ops::scale(ops::cos(angle), std::numbers::sqrt2);
}

void MpFourier::initialise(std::uint64_t seed, const std::string& name) {
  freqs.copy_(draw_init(seed, mp_member(name, "freqs"), freqs.sizes(), 1, 1,
                        InitMode::kaiming_normal) *
              (2 * std::numbers::pi * bandwidth_));
  // Uniform in [-sqrt 3, sqrt 3) there.
  const at::Tensor uniform = draw_init(seed, mp_member(name, "phases"), phases.sizes(), 1,
                                       1, InitMode::kaiming_uniform);
  phases.copy_((uniform / std::numbers::sqrt3 + 1) * std::numbers::pi);
}

Dual MpPositional::forward(const Dual& time) const {
  return ops::scale(embedding_.forward(time), std::numbers::sqrt2);
}

MpBlock::MpBlock(int64_t in, int64_t out, MpBlockOptions options, std::string path)
    : in_(in), out_(out), options_(std::move(options)), path_(std::move(path)) {
  const MpBlockOptions& o = options_;
  if (o.attention) heads_ = out / o.channels_per_head;
  FM_CHECK_USAGE(heads_ == 0 || out % heads_ == 0, "attention over ", out,
                 " channels: they do not divide into ", heads_,
                 " heads; change network.channels_per_head (", o.channels_per_head, ")");
  const auto conv = [&](const char* name, int64_t c_in, int64_t c_out, int64_t kernel) {
    return register_module(name, std::make_shared<MpConv>(c_in, c_out, kernel));
  };
  emb_gain = register_parameter("emb_gain", at::zeros({}, weight_options()));
  conv_res0_ = conv("conv_res0", o.encoder ? out : in, out, 3);
  emb_linear_ = conv("emb_linear", o.emb_channels, out, 0);
  conv_res1_ = conv("conv_res1", out, out, 3);
  if (in != out) conv_skip_ = conv("conv_skip", in, out, 1);
  if (heads_ > 0) {
    attn_qkv_ = conv("attn_qkv", out, 3 * out, 1);
    attn_proj_ = conv("attn_proj", out, out, 1);
  }
}

Dual MpBlock::forward(const Dual& input, const Dual& emb, const Context& context) const {
  const std::array<int64_t, 1> channel = {1};
  Dual x = mp_resample(input, options_.resample_filter, options_.resample);
  if (options_.encoder) {
    if (conv_skip_) x = conv_skip_->forward(x);
    x = ops::rms_normalize(x, channel, kMpEps);
  }
  Dual y = conv_res0_->forward(mp_silu(x));
  const std::array<int64_t, 4> column = {emb.value.size(0), out_, 1, 1};
  const Dual modulation =
      ops::add_scalar(ops::reshape(emb_linear_->forward(emb, emb_gain), column), 1);
  y = mp_silu(y * modulation);
  y = dropout(y, options_.dropout, path_ + ".dropout", context);
  y = conv_res1_->forward(y);
  if (!options_.encoder && conv_skip_) x = conv_skip_->forward(x);
  x = mp_sum(x, y, options_.res_balance);
  if (heads_ > 0) x = mp_sum(x, attend(x), options_.attn_balance);
  const double clip = options_.clip_act;
  return clip > 0 ? ops::clamp(x, -clip, clip) : x;
}

Dual MpBlock::attend(const Dual& x) const {
  const auto size = x.value.sizes();
  const int64_t depth = out_ / heads_;
  const std::array<int64_t, 5> split = {size[0], heads_, depth, 3, size[2] * size[3]};
  const std::array<int64_t, 1> channel = {2};
  const std::vector<Dual> qkv = ops::unbind(
      ops::rms_normalize(ops::reshape(attn_qkv_->forward(x), split), channel, kMpEps), 3);
  const auto tokens = [](const Dual& a) { return ops::transpose(a, 2, 3); };
  const Dual mixed =
      ops::attention(tokens(qkv[0]), tokens(qkv[1]), tokens(qkv[2]),
                     1 / std::sqrt(static_cast<double>(depth)));
  const std::array<int64_t, 4> image = {size[0], size[1], size[2], size[3]};
  // As a view it would look channels-last, and every later layer would follow suit.
  return attn_proj_->forward(ops::in_memory_order(ops::reshape(tokens(mixed), image),
                                                  x.value.suggest_memory_format()));
}

double MpBlock::multiply_adds(int64_t height, int64_t width) const {
  const bool up = options_.resample == Resample::up;
  const bool down = options_.resample == Resample::down;
  const int64_t inside = height * width;
  const int64_t pixels = up ? inside * 4 : down ? inside / 4 : inside;
  double total = conv_res0_->multiply_adds(pixels) + emb_linear_->multiply_adds() +
                 conv_res1_->multiply_adds(pixels);
  if (up || down) {
    const double taps = static_cast<double>(options_.resample_filter.size());
    total += taps * taps * static_cast<double>(in_ * std::min(inside, pixels));
  }
  if (conv_skip_) total += conv_skip_->multiply_adds(pixels);
  if (heads_ > 0) {
    const double n = static_cast<double>(pixels);
    total += attn_qkv_->multiply_adds(pixels) + attn_proj_->multiply_adds(pixels) +
             2 * n * n * static_cast<double>(out_);
  }
  return total;
}

}  // namespace flowmap
