#include "flowmap/perceptual/distance.h"

#include <ATen/ATen.h>

#include "flowmap/base/error.h"
#include "flowmap/perceptual/classifier_distance.h"
#include "flowmap/perceptual/lpips.h"

namespace flowmap {

std::shared_ptr<PerceptualDistance> make_perceptual_distance(const std::string& type,
                                                             const Config& options) {
  if (type == "lpips") return make_lpips(read_lpips_options(options));
  if (type == "classifier") return make_classifier_distance(options);
  throw UsageError("unknown perceptual distance '" + type + "'; known: lpips, classifier");
}

at::Tensor unit_features(const at::Tensor& features) {
  // 1e-24 keeps the derivative of the root finite at zero and changes no other digit.
  const at::Tensor norm = (features.square().sum(1, true) + 1e-24).sqrt();
  return features / (norm + 1e-10);
}

}  // namespace flowmap
