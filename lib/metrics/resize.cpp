#include "metrics/resize.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <vector>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/ops_resize.h"
#include "flowmap/resample.h"

namespace flowmap::metrics {
namespace {

const std::vector<std::string>& resize_mode_names() {
  static const std::vector<std::string> names{"clean", "legacy_tensorflow",
                                              "legacy_pytorch", "edm"};
  return names;
}

// Grid positions are shifted by half a pixel of either grid, so that output i samples at
// i * in / out.
at::Tensor resize_grid(const at::Tensor& pictures, int64_t height, int64_t width) {
  const auto options = pictures.options().dtype(at::kFloat);
  const int64_t count = pictures.size(0);
  at::Tensor theta = at::eye(2, 3, options);
  theta[0][2] += 1.0 / static_cast<double>(pictures.size(3)) - 1.0 / width;
  theta[1][2] += 1.0 / static_cast<double>(pictures.size(2)) - 1.0 / height;
  const at::Tensor grid = at::affine_grid_generator(
      theta.unsqueeze(0), {1, pictures.size(1), height, width}, false);
  constexpr int64_t kBilinear = 0, kBorder = 1;
  return at::grid_sampler(pictures.to(at::kFloat), grid.expand({count, -1, -1, -1}),
                          kBilinear, kBorder, false);
}

// One axis of the modes that are separable filters.
ops::ResizeTable table_of(ResizeMode mode, int64_t inputs, int64_t outputs) {
  switch (mode) {
    case ResizeMode::clean:
      return ops::pillow_table(inputs, outputs, ResampleFilter::bicubic);
    case ResizeMode::legacy_pytorch:
      return ops::pytorch_bilinear_table(inputs, outputs);
    default: return ops::tensorflow_bilinear_table(inputs, outputs);
  }
}

}  // namespace

ResizeMode parse_resize_mode(const std::string& text, std::string_view what) {
  const std::vector<std::string>& names = resize_mode_names();
  const auto found = std::find(names.begin(), names.end(), text);
  if (found != names.end()) return static_cast<ResizeMode>(found - names.begin());
  throw UsageError(std::string(what) + ": unknown mode '" + text + "'" +
                   suggestion(text, names));
}

std::string resize_mode_name(ResizeMode mode) {
  return resize_mode_names()[static_cast<std::size_t>(mode)];
}

at::Tensor resize_pictures(const at::Tensor& pictures, ResizeMode mode, int64_t height,
                           int64_t width, PixelScale scale) {
  const at::NoGradGuard no_grad;
  FM_CHECK_USAGE(pictures.dim() == 4 && pictures.scalar_type() == at::kByte &&
                     pictures.size(2) > 0 && pictures.size(3) > 0,
                 "resizing takes pictures of bytes [count, channels, height, width], "
                 "not ", pictures.toString(), " ", shape_text(pictures.sizes()));
  FM_CHECK_USAGE(height > 0 && width > 0, "cannot resize to ", width, "x", height);
  FM_CHECK_USAGE(pictures.size(1) == 1 || pictures.size(1) == 3,
                 "resizing takes gray or RGB pictures, these have ", pictures.size(1),
                 " channels");
  ops::PixelRange range;
  if (scale == PixelScale::network) {
    const bool pytorch = mode == ResizeMode::legacy_pytorch;
    range.shift = pytorch ? 127.5 : 128;
    range.scale = 1 / range.shift;
  }
  if (mode == ResizeMode::edm) {
    const at::Tensor out = resize_grid(pictures, height, width);
    return out.sub_(range.shift).mul_(range.scale).expand({-1, 3, -1, -1}).contiguous();
  }
  range.clip = mode == ResizeMode::clean;
  return ops::resize_normalize(pictures, table_of(mode, pictures.size(2), height),
                               table_of(mode, pictures.size(3), width), range);
}

}  // namespace flowmap::metrics
