// How far apart two images look: distances in the features of a network.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "flowmap/base/config.h"

namespace flowmap {

class PerceptualDistance {
 public:
  virtual ~PerceptualDistance() = default;
  // a, b [B, C, H, W] in [-1, 1] -> [B], zero where they agree. Differentiable in both;
  // weights are frozen. The network follows the images to their device, and to float64.
  virtual at::Tensor operator()(const at::Tensor& a, const at::Tensor& b) = 0;
  virtual std::string name() const = 0;  // "lpips-vgg"
};

// "lpips" (lpips.h) or "classifier" (classifier_distance.h, which needs no foreign file) with
// its options. Throws UsageError where files are missing.
std::shared_ptr<PerceptualDistance> make_perceptual_distance(const std::string& type,
                                                             const Config& options);

// f / |f| over the channels of [B, C, ...]; zero where f is zero, gradients too.
at::Tensor unit_features(const at::Tensor& features);

}  // namespace flowmap
