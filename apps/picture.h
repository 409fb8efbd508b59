// One picture of many samples.
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/formats/image.h"

namespace flowmap::apps {

// Images [B, C, H, W] in [-1, 1]: a grid of `columns`. Points [B, 2]: a scatter plot over
// [-1.25, 1.25]^2.
Image samples_picture(const at::Tensor& samples, int columns);
// Points [N, 2] as a square scatter plot of `size` pixels over [-1.25, 1.25]^2.
Image points_picture(const at::Tensor& points, int size);
// bytes uint8 [B, C, H, W] to pictures.
std::vector<Image> to_images(const at::Tensor& bytes);

}  // namespace flowmap::apps
