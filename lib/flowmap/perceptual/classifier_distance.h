// The distance between the features of a classifier trained here: what the Fashion-MNIST
// examples use in place of LPIPS, with no file but the program's own.
#pragma once

#include <memory>

#include "flowmap/base/config.h"
#include "flowmap/perceptual/distance.h"

namespace flowmap {

// Over the feature maps of a classifier_cnn and its last features alike: the mean over
// positions of | f_a/|f_a| - f_b/|f_b| |^2, added up (LPIPS with all heads 1). options
// "path": a snapshot of a classifier; by default models/fmnist64.safetensors of the program.
// Throws UsageError where there is none, or it is no classifier.
std::shared_ptr<PerceptualDistance> make_classifier_distance(const Config& options);

}  // namespace flowmap
