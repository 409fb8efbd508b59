#include "apps/picture.h"

#include <ATen/ATen.h>

#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>

#include "flowmap/data/dataset.h"

namespace flowmap::apps {

std::vector<Image> to_images(const at::Tensor& bytes) {
  const at::Tensor rows = bytes.permute({0, 2, 3, 1}).contiguous();
  const int64_t size = rows.numel() / std::max<int64_t>(rows.size(0), 1);
  std::vector<Image> images;
  for (int64_t i = 0; i < rows.size(0); ++i) {
    Image image{static_cast<int>(rows.size(2)), static_cast<int>(rows.size(1)),
                static_cast<int>(rows.size(3)), {}};
    const uint8_t* pixels = rows.data_ptr<uint8_t>() + i * size;
    image.pixels.assign(pixels, pixels + size);
    images.push_back(std::move(image));
  }
  return images;
}

Image samples_picture(const at::Tensor& samples, int columns) {
  if (samples.dim() == 4) return make_grid(to_images(images_to_bytes(samples)), columns);
  return points_picture(samples, 512);
}

Image points_picture(const at::Tensor& samples, int size) {
  constexpr double kReach = 1.25;
  cv::Mat canvas(size, size, CV_8UC3, cv::Scalar(255, 255, 255));
  const at::Tensor points = samples.to(at::kDouble).cpu().contiguous();
  const double* p = points.data_ptr<double>();
  const auto place = [size](double v) {
    return static_cast<int>(std::lround((v + kReach) / (2 * kReach) * (size - 1)));
  };
  cv::rectangle(canvas, {place(-1), place(-1)}, {place(1), place(1)},
                cv::Scalar(210, 210, 210));
  for (int64_t i = 0; i < points.size(0); ++i) {
    const double x = p[2 * i], y = p[2 * i + 1];
    if (!(std::abs(x) < kReach && std::abs(y) < kReach)) continue;
    canvas.at<cv::Vec3b>(place(-y), place(x)) = cv::Vec3b(31, 119, 180);
  }
  Image image{size, size, 3, {}};
  image.pixels.assign(canvas.data, canvas.data + canvas.total() * 3);
  return image;
}

}  // namespace flowmap::apps
