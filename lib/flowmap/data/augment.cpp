#include "flowmap/data/augment.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <vector>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

constexpr double kLogStd = 0.2;    // of zoom and stretch, in powers of two
constexpr double kShiftStd = 0.125;  // of shifts, in images

// Low-pass filter of the wavelet sym6 (Daubechies 1992, table 6.3): orthonormal to its
// shifts by two.
constexpr std::array<double, 12> kSym6 = {
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057,
    -0.048311742585633,   0.4910559419267466,    0.787641141030194,
    0.3379294217276218,   -0.07263752278646252,  -0.021060292512300564,
    0.04472490177066578,  0.0017677118642428036, -0.007800708325034148};
constexpr int64_t kTaps = 12;
// What the low-pass before the final crop needs around an image, in its pixels.
constexpr int64_t kRim = kTaps / 2;
// Images resampled at a time: an upsampled one takes 36 times its memory.
constexpr int64_t kAugmentChunk = 64;

// Where a pixel of the result comes from: in = A out + b, both relative to the image's
// centre, in pixels, x first.
struct SourceMap {
  double xx, xy, yx, yy, x, y;
};

SourceMap source_map(double zoom, double rotation, double stretch, double angle,
                     double xshift, double yshift) {
  // A = 2^-zoom R(rotation) R(-angle) diag(1/s, s) R(angle), R(a) = (cos -sin; sin cos).
  const double s = std::exp2(kLogStd * stretch), shrink = std::exp2(-kLogStd * zoom);
  const double c = std::cos(angle), d = std::sin(angle);
  const double along = c * c / s + d * d * s, across = d * d / s + c * c * s;
  const double mixed = c * d * (s - 1 / s);
  const double cr = shrink * std::cos(rotation), sr = shrink * std::sin(rotation);
  SourceMap map{};
  map.xx = cr * along - sr * mixed;
  map.xy = cr * mixed - sr * across;
  map.yx = sr * along + cr * mixed;
  map.yy = sr * mixed + cr * across;
  map.x = -(map.xx * xshift + map.xy * yshift);
  map.y = -(map.yx * xshift + map.yy * yshift);
  return map;
}

// One pass of the filter along dimension 2 or 3 of [n, 1, H, W].
at::Tensor filtered(const at::Tensor& images, int64_t dim, const at::Tensor& filter,
                    int64_t padding, int64_t stride) {
  const bool rows = dim == 2;
  const std::array<int64_t, 2> pad{rows ? padding : 0, rows ? 0 : padding};
  const std::array<int64_t, 2> step{rows ? stride : 1, rows ? 1 : stride};
  const at::Tensor weight =
      rows ? filter.view({1, 1, kTaps, 1}) : filter.view({1, 1, 1, kTaps});
  return at::conv2d(images, weight, {}, step, pad);
}

// [n, 1, H, W] -> twice as many points along `dim`; point 2 i lies on pixel i.
at::Tensor upsampled(const at::Tensor& images, int64_t dim, const at::Tensor& filter) {
  const at::Tensor pairs = at::stack({images, at::zeros_like(images)}, dim + 1);
  const int64_t size = images.size(dim);
  const at::Tensor spread =
      (dim == 2 ? pairs.flatten(2, 3) : pairs.flatten(3, 4)).narrow(dim, 0, 2 * size - 1);
  return filtered(spread, dim, filter.flip({0}), (kTaps + 1) / 2, 1);
}

// [n, C, H, W] through the maps, float32.
at::Tensor warped(const at::Tensor& images, const std::vector<SourceMap>& maps) {
  const int64_t n = images.size(0), c = images.size(1);
  const int64_t height = images.size(2), width = images.size(3);
  const at::Tensor filter =
      at::tensor(at::ArrayRef<double>(kSym6.data(), kSym6.size()), at::kDouble)
          .to(images.options());
  const std::array<int64_t, 4> margins{width - 1, width - 1, height - 1, height - 1};
  at::Tensor fine = at::reflection_pad2d(images, margins);
  fine = fine.reshape({n * c, 1, fine.size(2), fine.size(3)});
  fine = upsampled(upsampled(fine, 3, filter), 2, filter);
  fine = fine.reshape({n, c, fine.size(2), fine.size(3)});

  // The maps on the fine grid, whose coordinates run from -1 to 1 over the whole of it. The
  // centre of the image is half a fine pixel before that of the grid.
  const double in_w = static_cast<double>(fine.size(3)) / 2;
  const double in_h = static_cast<double>(fine.size(2)) / 2;
  const std::array<int64_t, 4> shape{n, c, 2 * (height + 2 * (kRim / 2)),
                                     2 * (width + 2 * (kRim / 2))};
  const double out_w = static_cast<double>(shape[3]) / 2;
  const double out_h = static_cast<double>(shape[2]) / 2;
  std::vector<double> theta;
  for (const SourceMap& m : maps) {
    const double x = 0.5 * (m.xx + m.xy) + 2 * m.x - 0.5;
    const double y = 0.5 * (m.yx + m.yy) + 2 * m.y - 0.5;
    for (const double value : {m.xx * out_w / in_w, m.xy * out_h / in_w, x / in_w,
                               m.yx * out_w / in_h, m.yy * out_h / in_h, y / in_h})
      theta.push_back(value);
  }
  const at::Tensor grid = at::affine_grid_generator(
      at::tensor(theta, at::kDouble).view({n, 2, 3}), shape, false);
  constexpr int64_t kBilinear = 0, kZeros = 0;
  fine = at::grid_sampler(fine, grid.to(images.options()), kBilinear, kZeros, false);

  fine = fine.reshape({n * c, 1, shape[2], shape[3]});
  const auto reduced = [&](const at::Tensor& a, int64_t dim, int64_t size) {
    return filtered(a, dim, filter, (kTaps - 1) / 2, 2).narrow(dim, kRim / 2, size);
  };
  return reduced(reduced(fine, 3, width), 2, height).reshape({n, c, height, width});
}

}  // namespace

at::Tensor AugmentParameters::labels() const {
  return at::stack({xflip, yflip, zoom, rotation.cos() - 1, rotation.sin(),
                    stretch * stretch_angle.cos(), stretch * stretch_angle.sin(), xshift,
                    yshift},
                   1);
}

AugmentParameters draw_augmentation(double probability, const Draw& rows) {
  const Draw draw = rows.fork("augment");
  const at::Tensor done = draw.uniform("done", {5}).lt(probability);
  const auto where_done = [&](int64_t which, const at::Tensor& value) {
    return at::where(done.select(1, which), value, at::zeros_like(value));
  };
  const auto coin = [&](const char* stream) {
    return draw.uniform(stream, {}).lt(0.5).to(at::kFloat);
  };
  const auto angle = [&](const char* stream) {
    return (draw.uniform(stream, {}) * 2 - 1) * std::numbers::pi;
  };
  AugmentParameters p;
  p.xflip = coin("xflip");
  p.yflip = where_done(0, coin("yflip"));
  p.zoom = where_done(1, draw.normal("zoom", {}));
  p.rotation = where_done(2, angle("rotation"));
  p.stretch = where_done(3, draw.normal("stretch", {}));
  p.stretch_angle = where_done(3, angle("stretch_angle") * coin("stretch_turned"));
  const at::Tensor shift = draw.normal("shift", {2});
  p.xshift = where_done(4, shift.select(1, 0));
  p.yshift = where_done(4, shift.select(1, 1));
  return p;
}

at::Tensor augment_images(const at::Tensor& images, const AugmentParameters& parameters) {
  FM_CHECK(images.dim() == 4 && images.size(0) == parameters.xflip.size(0),
           "augmentation: images [B, C, H, W] and parameters [B] of one B");
  const int64_t count = images.size(0);
  const auto flipped = [&](const at::Tensor& a, const at::Tensor& which, int64_t dim) {
    const at::Tensor rows = which.ne(0).view({-1, 1, 1, 1}).to(a.device());
    return at::where(rows, a.flip({dim}), a);
  };
  at::Tensor result = flipped(images, parameters.xflip, 3);
  result = flipped(result, parameters.yflip, 2);

  std::vector<int64_t> moved;
  std::vector<SourceMap> maps;
  const auto value = [](const at::Tensor& a, int64_t row) {
    return static_cast<double>(a.const_data_ptr<float>()[row]);
  };
  const auto width = static_cast<double>(images.size(3));
  const auto height = static_cast<double>(images.size(2));
  const at::Tensor zoom = parameters.zoom.contiguous(),
                   rotation = parameters.rotation.contiguous(),
                   stretch = parameters.stretch.contiguous(),
                   angle = parameters.stretch_angle.contiguous(),
                   xshift = parameters.xshift.contiguous(),
                   yshift = parameters.yshift.contiguous();
  for (int64_t i = 0; i < count; ++i) {
    if (value(zoom, i) == 0 && value(rotation, i) == 0 && value(stretch, i) == 0 &&
        value(xshift, i) == 0 && value(yshift, i) == 0)
      continue;
    moved.push_back(i);
    maps.push_back(source_map(value(zoom, i), value(rotation, i), value(stretch, i),
                              value(angle, i), value(xshift, i) * kShiftStd * width,
                              value(yshift, i) * kShiftStd * height));
  }
  const auto total = static_cast<int64_t>(moved.size());
  for (int64_t first = 0; first < total; first += kAugmentChunk) {
    const int64_t last = std::min(first + kAugmentChunk, total);
    const at::Tensor rows =
        at::tensor(at::ArrayRef<int64_t>(moved.data() + first, moved.data() + last),
                   at::kLong).to(images.device());
    result.index_copy_(0, rows,
                       warped(result.index_select(0, rows),
                              {maps.begin() + first, maps.begin() + last}));
  }
  return result;
}

Augmented augment(const at::Tensor& images, double probability, const Draw& rows) {
  const AugmentParameters parameters = draw_augmentation(probability, rows);
  return {augment_images(images, parameters), parameters.labels().to(images.device())};
}

}  // namespace flowmap
