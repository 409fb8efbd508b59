#include "flowmap/resample.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {

constexpr int kWeightBits = 22;  // of a fixed-point weight of bytes

double sinc(double x) {
  if (x == 0) return 1;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

// How far the filter reaches, in pixels of the coarser grid.
double filter_reach(ResampleFilter filter) {
  switch (filter) {
    case ResampleFilter::box: return 0.5;
    case ResampleFilter::bilinear:
    case ResampleFilter::hamming: return 1;
    case ResampleFilter::bicubic: return 2;
    case ResampleFilter::lanczos: return 3;
  }
  return 0;
}

double filter_value(ResampleFilter filter, double x) {
  const double r = std::abs(x);
  switch (filter) {
    case ResampleFilter::box: return x > -0.5 && x <= 0.5 ? 1 : 0;
    case ResampleFilter::bilinear: return r < 1 ? 1 - r : 0;
    case ResampleFilter::hamming:
      return r < 1 ? sinc(r) * (0.54 + 0.46 * std::cos(std::numbers::pi * r)) : 0;
    case ResampleFilter::bicubic: {  // Keys 1981 with a = -1/2
      constexpr double a = -0.5;
      if (r < 1) return ((a + 2) * r - (a + 3)) * r * r + 1;
      return r < 2 ? (((r - 5) * r + 8) * r - 4) * a : 0;
    }
    case ResampleFilter::lanczos: return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
  }
  return 0;
}

std::vector<std::int32_t> fixed_point(const std::vector<double>& weights) {
  std::vector<std::int32_t> out(weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i)
    out[i] = static_cast<std::int32_t>(weights[i] * (1 << kWeightBits) +
                                       (weights[i] < 0 ? -0.5 : 0.5));
  return out;
}

std::uint8_t to_byte(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

template <int C>
void resize_row_bytes(const std::uint8_t* in, std::uint8_t* out,
                      const ResampleWeights& plan, const std::int32_t* fixed) {
  for (std::size_t x = 0; x < plan.first.size(); ++x) {
    const std::uint8_t* from = in + plan.first[x] * C;
    const std::int32_t* weight = fixed + static_cast<std::int64_t>(x) * plan.taps;
    std::int32_t sum[C];
    for (int c = 0; c < C; ++c) sum[c] = 1 << (kWeightBits - 1);
    for (std::int64_t k = 0; k < plan.count[x]; ++k)
      for (int c = 0; c < C; ++c) sum[c] += from[k * C + c] * weight[k];
    for (int c = 0; c < C; ++c) *out++ = to_byte(sum[c]);
  }
}

Image resize_width_bytes(const Image& image, int width, ResampleFilter filter) {
  const ResampleWeights plan = resample_weights(image.width, width, filter);
  const std::vector<std::int32_t> fixed = fixed_point(plan.weights);
  const auto rows = static_cast<std::size_t>(image.height);
  const std::size_t in_row = static_cast<std::size_t>(image.width * image.channels);
  const std::size_t out_row = static_cast<std::size_t>(width * image.channels);
  Image out{width, image.height, image.channels,
            std::vector<std::uint8_t>(rows * out_row)};
  for (std::size_t y = 0; y < rows; ++y) {
    const std::uint8_t* from = image.pixels.data() + y * in_row;
    std::uint8_t* to = out.pixels.data() + y * out_row;
    switch (image.channels) {
      case 1: resize_row_bytes<1>(from, to, plan, fixed.data()); break;
      case 2: resize_row_bytes<2>(from, to, plan, fixed.data()); break;
      case 3: resize_row_bytes<3>(from, to, plan, fixed.data()); break;
      default: resize_row_bytes<4>(from, to, plan, fixed.data());
    }
  }
  return out;
}

Image resize_height_bytes(const Image& image, int height, ResampleFilter filter) {
  const ResampleWeights plan = resample_weights(image.height, height, filter);
  const std::vector<std::int32_t> fixed = fixed_point(plan.weights);
  const std::size_t row = static_cast<std::size_t>(image.width * image.channels);
  Image out{image.width, height, image.channels,
            std::vector<std::uint8_t>(static_cast<std::size_t>(height) * row)};
  std::vector<std::int32_t> sums(row);
  for (std::size_t y = 0; y < static_cast<std::size_t>(height); ++y) {
    std::fill(sums.begin(), sums.end(), 1 << (kWeightBits - 1));
    for (std::int64_t k = 0; k < plan.count[y]; ++k) {
      const std::int32_t weight = fixed[y * static_cast<std::size_t>(plan.taps) +
                                        static_cast<std::size_t>(k)];
      const std::uint8_t* from =
          image.pixels.data() + static_cast<std::size_t>(plan.first[y] + k) * row;
      for (std::size_t i = 0; i < row; ++i) sums[i] += from[i] * weight;
    }
    std::transform(sums.begin(), sums.end(),
                   out.pixels.begin() + static_cast<std::ptrdiff_t>(y * row), to_byte);
  }
  return out;
}

// Which pass comes first: the vertical one where it takes away enough rows. This is what
// Pillow 13.0 is seen to do at all sizes; until 12 it began with the horizontal one.
bool vertical_first(std::int64_t in_height, std::int64_t in_width, std::int64_t height,
                    std::int64_t width) {
  return height < in_height && in_height - height > 2 * (in_width - width);
}

// Colours times alpha / 255, rounded, so that what cannot be seen does not bleed.
void multiply_by_alpha(Image& image) {
  const auto channels = static_cast<std::size_t>(image.channels);
  for (std::size_t i = 0; i < image.pixels.size(); i += channels)
    for (std::size_t c = 0; c + 1 < channels; ++c) {
      const unsigned product =
          image.pixels[i + c] * image.pixels[i + channels - 1] + 128u;
      image.pixels[i + c] = static_cast<std::uint8_t>(((product >> 8) + product) >> 8);
    }
}

void divide_by_alpha(Image& image) {
  const auto channels = static_cast<std::size_t>(image.channels);
  for (std::size_t i = 0; i < image.pixels.size(); i += channels) {
    const int alpha = image.pixels[i + channels - 1];
    if (alpha == 0 || alpha == 255) continue;
    for (std::size_t c = 0; c + 1 < channels; ++c)
      image.pixels[i + c] =
          static_cast<std::uint8_t>(std::min(255, 255 * image.pixels[i + c] / alpha));
  }
}

// One plane; `between` has room for the plane between the passes, `sums` for a row of it.
struct PlaneResizer {
  std::int64_t in_height, in_width, height, width;
  ResampleWeights across, down;

  void operator()(const float* in, float* out, float* between, double* sums) const {
    if (in_width == width && in_height == height) {
      std::copy(in, in + height * width, out);
    } else if (in_width == width) {
      columns(in, out, width, sums);
    } else if (in_height == height) {
      rows(in, out, height);
    } else if (vertical_first(in_height, in_width, height, width)) {
      columns(in, between, in_width, sums);
      rows(between, out, height);
    } else {
      rows(in, between, in_height);
      columns(between, out, width, sums);
    }
  }

  void rows(const float* in, float* out, std::int64_t count) const {
    for (; count > 0; --count, in += in_width)
      for (std::int64_t x = 0; x < width; ++x) {
        const auto at = static_cast<std::size_t>(x);
        const double* weight = across.weights.data() + x * across.taps;
        const float* from = in + across.first[at];
        double sum = 0;
        for (std::int64_t k = 0; k < across.count[at]; ++k) sum += from[k] * weight[k];
        *out++ = static_cast<float>(sum);
      }
  }

  void columns(const float* in, float* out, std::int64_t row, double* sums) const {
    for (std::int64_t y = 0; y < height; ++y) {
      const auto at = static_cast<std::size_t>(y);
      const double* weight = down.weights.data() + y * down.taps;
      std::fill(sums, sums + row, 0.0);
      for (std::int64_t k = 0; k < down.count[at]; ++k) {
        const float* from = in + (down.first[at] + k) * row;
        for (std::int64_t x = 0; x < row; ++x) sums[x] += from[x] * weight[k];
      }
      for (std::int64_t x = 0; x < row; ++x) *out++ = static_cast<float>(sums[x]);
    }
  }
};

}  // namespace

ResampleFilter parse_resample_filter(const std::string& text, std::string_view what) {
  const std::vector<std::string> names{"box", "bilinear", "hamming", "bicubic",
                                       "lanczos"};
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == text) return static_cast<ResampleFilter>(i);
  throw UsageError(std::string(what) + ": unknown filter '" + text + "'" +
                   suggestion(text, names));
}

ResampleWeights resample_weights(std::int64_t inputs, std::int64_t outputs,
                                 ResampleFilter filter) {
  FM_CHECK_USAGE(inputs >= 1 && outputs >= 1, "cannot resize ", inputs, " pixels to ",
                 outputs, ": sizes begin at 1");
  const double scale = static_cast<double>(inputs) / static_cast<double>(outputs);
  const double stretch = std::max(scale, 1.0), reach = filter_reach(filter) * stretch;
  ResampleWeights plan;
  plan.taps = static_cast<std::int64_t>(std::ceil(reach)) * 2 + 1;
  plan.weights.assign(static_cast<std::size_t>(outputs * plan.taps), 0.0);
  for (std::int64_t i = 0; i < outputs; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale, narrow = 1 / stretch;
    const auto begin = std::max<std::int64_t>(
        static_cast<std::int64_t>(centre - reach + 0.5), 0);
    const auto end = std::min<std::int64_t>(
        static_cast<std::int64_t>(centre + reach + 0.5), inputs);
    double* weights = plan.weights.data() + i * plan.taps;
    double total = 0;
    for (std::int64_t k = 0; k < end - begin; ++k) {
      const double position = static_cast<double>(begin + k) - centre + 0.5;
      weights[k] = filter_value(filter, position * narrow);
      total += weights[k];
    }
    if (total != 0)
      for (std::int64_t k = 0; k < end - begin; ++k) weights[k] /= total;
    plan.first.push_back(begin);
    plan.count.push_back(end - begin);
  }
  return plan;
}

Image resize_bytes(const Image& image, int width, int height, ResampleFilter filter) {
  FM_CHECK_USAGE(image.width >= 1 && image.height >= 1 && width >= 1 && height >= 1,
                 "cannot resize a picture of ", image.width, "x", image.height, " to ",
                 width, "x", height, ": sizes begin at 1");
  FM_CHECK_USAGE(image.channels >= 1 && image.channels <= 4 &&
                     image.pixels.size() == static_cast<std::size_t>(image.width) *
                                                static_cast<std::size_t>(image.height) *
                                                static_cast<std::size_t>(image.channels),
                 "a picture of ", image.width, "x", image.height, " with ",
                 image.channels, " channels has ", image.pixels.size(), " bytes");
  Image out = image;
  if (width == image.width && height == image.height) return out;
  const bool alpha = image.channels % 2 == 0;
  if (alpha) multiply_by_alpha(out);
  const bool rows_first = vertical_first(image.height, image.width, height, width);
  if (rows_first) out = resize_height_bytes(out, height, filter);
  if (width != image.width) out = resize_width_bytes(out, width, filter);
  if (height != out.height) out = resize_height_bytes(out, height, filter);
  if (alpha) divide_by_alpha(out);
  return out;
}

at::Tensor resize_planes(const at::Tensor& planes, int64_t height, int64_t width,
                         ResampleFilter filter) {
  FM_CHECK(planes.dim() >= 2 && planes.scalar_type() == at::kFloat &&
               planes.device().is_cpu(),
           "resize_planes takes float32 planes on the CPU");
  std::vector<int64_t> shape = planes.sizes().vec();
  const int64_t in_height = planes.size(-2), in_width = planes.size(-1);
  const PlaneResizer resize{in_height, in_width, height, width,
                            resample_weights(in_width, width, filter),
                            resample_weights(in_height, height, filter)};
  shape[shape.size() - 2] = height;
  shape[shape.size() - 1] = width;
  const at::Tensor in = planes.contiguous();
  at::Tensor out = at::empty(shape, planes.options());
  const float* from = in.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const int64_t count = in.numel() / (in_height * in_width);
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> between(
        static_cast<std::size_t>(std::max(in_height * width, height * in_width)));
    std::vector<double> sums(static_cast<std::size_t>(std::max(in_width, width)));
    for (int64_t i = begin; i < end; ++i)
      resize(from + i * in_height * in_width, to + i * height * width, between.data(),
             sums.data());
  });
  return out;
}

}  // namespace flowmap
