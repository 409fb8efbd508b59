// The convolutional trunks that LPIPS reads features from, as torchvision numbers their
// layers: AlexNet (Krizhevsky 2014), VGG-16 (Simonyan and Zisserman 2015), SqueezeNet 1.1
// (Iandola et al. 2016).
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <span>
#include <string>
#include <vector>

namespace flowmap {

enum class TrunkLayer { convolution, fire, pool };

struct TrunkStep {
  TrunkLayer layer;
  int64_t index;          // in torchvision's "features"
  int64_t in, out;        // channels; of fire modules `squeeze` is between
  int64_t kernel = 3, stride = 1, padding = 1;  // of a pool too (no padding)
  int64_t squeeze = 0;
  bool tap = false;       // the output, after its ReLU, is a feature map of LPIPS
  bool ceil = false;      // pools: the last window may hang over
};

struct TrunkLayout {
  const char* name;        // "alex", "vgg", "squeeze"
  const char* file;        // what torchvision calls its weights
  std::vector<TrunkStep> steps;
};
const std::vector<TrunkLayout>& trunk_layouts();
const TrunkLayout& trunk_layout(const std::string& name);

// Weights by "INDEX.weight", "INDEX.bias", "INDEX.squeeze.weight", ..., ReLU after each
// convolution. Largest or mean values in pools. x [B, 3, H, W] -> the tapped maps.
std::vector<at::Tensor> run_trunk(const TrunkLayout& layout,
                                  const std::map<std::string, at::Tensor>& weights,
                                  const at::Tensor& x, bool average_pooling);
// The names and shapes that run_trunk wants.
std::map<std::string, std::vector<int64_t>> trunk_parameters(const TrunkLayout& layout);

}  // namespace flowmap
