#include "flowmap/convert/transform.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {

constexpr std::array<std::pair<std::string_view, PictureTransform>, 4> kTransforms{{
    {"none", PictureTransform::none},
    {"center-crop", PictureTransform::center_crop},
    {"center-crop-wide", PictureTransform::center_crop_wide},
    {"center-crop-dhariwal", PictureTransform::center_crop_dhariwal},
}};

std::size_t pixel_index(const Image& image, int x, int y) {
  return (static_cast<std::size_t>(y) * image.width + x) * image.channels;
}

// A rectangle that lies inside.
Image cut_out(const Image& image, int left, int top, int width, int height) {
  if (width == image.width && height == image.height) return image;
  Image out{width, height, image.channels, {}};
  const auto row = static_cast<std::ptrdiff_t>(width) * image.channels;
  for (int y = top; y < top + height; ++y) {
    const auto from = image.pixels.begin() +
                      static_cast<std::ptrdiff_t>(pixel_index(image, left, y));
    out.pixels.insert(out.pixels.end(), from, from + row);
  }
  return out;
}

Image drop_alpha(const Image& image) {
  Image out{image.width, image.height, 3, {}};
  out.pixels.reserve(image.pixels.size() / 4 * 3);
  for (std::size_t i = 0; i < image.pixels.size(); i += 4)
    out.pixels.insert(out.pixels.end(), &image.pixels[i], &image.pixels[i] + 3);
  return out;
}

Image gray_as_rgb(const Image& image) {
  Image out{image.width, image.height, 3, {}};
  out.pixels.reserve(image.pixels.size() * 3);
  for (const std::uint8_t level : image.pixels)
    out.pixels.insert(out.pixels.end(), 3, level);
  return out;
}

// `image` in the middle of black (one pixel up and left where the margin is odd).
Image on_black(const Image& image, int width, int height) {
  Image out{width, height, image.channels, {}};
  out.pixels.assign(static_cast<std::size_t>(width) * height * image.channels, 0);
  const int left = (width - image.width) / 2, top = (height - image.height) / 2;
  const auto row = static_cast<std::size_t>(image.width) * image.channels;
  for (int y = 0; y < image.height; ++y)
    std::copy_n(&image.pixels[row * y], row, &out.pixels[pixel_index(out, left, top + y)]);
  return out;
}

Image crop_square(const Image& image, const TransformOptions& options) {
  const int side = std::min(image.width, image.height);
  return resize_bytes(cut_out(image, (image.width - side) / 2, (image.height - side) / 2,
                              side, side),
                      options.width, options.height, options.filter);
}

std::optional<Image> crop_wide(const Image& image, const TransformOptions& options) {
  // nearbyint rounds halves to even, as numpy does.
  const double exact =
      static_cast<double>(options.width) * image.height / image.width;
  const int height = static_cast<int>(std::nearbyint(exact));
  if (image.width < options.width || height < options.height) return {};
  const Image strip =
      cut_out(image, 0, (image.height - height) / 2, image.width, height);
  return on_black(resize_bytes(strip, options.width, options.height, options.filter),
                  options.width, options.width);
}

Image crop_dhariwal(Image image, const TransformOptions& options) {
  const int size = options.width;
  while (std::min(image.width, image.height) / 2 >= size)
    image = resize_bytes(image, image.width / 2, image.height / 2, ResampleFilter::box);
  const double scale =
      static_cast<double>(size) / std::min(image.width, image.height);
  image = resize_bytes(image, static_cast<int>(std::nearbyint(image.width * scale)),
                       static_cast<int>(std::nearbyint(image.height * scale)),
                       ResampleFilter::bicubic);
  return cut_out(image, (image.width - size) / 2, (image.height - size) / 2, size, size);
}

}  // namespace

PictureTransform parse_picture_transform(const std::string& text, std::string_view what) {
  std::vector<std::string> names;
  for (const auto& [name, transform] : kTransforms) {
    if (text == name) return transform;
    names.emplace_back(name);
  }
  throw UsageError(std::string(what) + ": unknown transform '" + text + "'" +
                   suggestion(text, names));
}

void check_transform(const TransformOptions& options) {
  FM_CHECK_USAGE(options.width >= 0 && options.height >= 0 && options.pad >= 0,
                 "--resolution, --pad: sizes below zero");
  const bool sized = options.width > 0 && options.height > 0;
  if (options.transform == PictureTransform::none) {
    FM_CHECK_USAGE(sized || (options.width == 0 && options.height == 0),
                   "--resolution: takes a width and a height, 64x64");
    return;
  }
  FM_CHECK_USAGE(sized, "--transform: say which size the crops get, --resolution=WxH");
  if (options.transform == PictureTransform::center_crop_wide)
    FM_CHECK_USAGE(options.height <= options.width, "--resolution: ", options.width, "x",
                   options.height, " is higher than wide; center-crop-wide puts wide ",
                   "pictures on a square");
  if (options.transform == PictureTransform::center_crop_dhariwal)
    FM_CHECK_USAGE(options.width == options.height, "--resolution: ", options.width, "x",
                   options.height, " is not square; center-crop-dhariwal makes squares");
}

std::optional<Image> transform_picture(Image image, const TransformOptions& options) {
  if (image.channels == 4) image = drop_alpha(image);
  const bool crops = options.transform != PictureTransform::none;
  if (image.channels == 1 && (crops || options.gray_to_rgb)) image = gray_as_rgb(image);
  if (options.pad > 0)
    image = on_black(image, image.width + 2 * options.pad, image.height + 2 * options.pad);
  switch (options.transform) {
    case PictureTransform::center_crop:
      return crop_square(image, options);
    case PictureTransform::center_crop_wide:
      return crop_wide(image, options);
    case PictureTransform::center_crop_dhariwal:
      return crop_dhariwal(std::move(image), options);
    case PictureTransform::none:
      break;
  }
  if (options.width == 0 ||
      (image.width == options.width && image.height == options.height))
    return image;
  return resize_bytes(image, options.width, options.height, options.filter);
}

}  // namespace flowmap
