// LPIPS v0.1 (Zhang et al. 2018, arXiv 1801.03924): squared differences of the unit features
// of a trunk, weighted by learned heads, averaged over positions, summed over layers.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/perceptual/distance.h"

namespace flowmap {

struct LpipsOptions {
  std::string net = "vgg";  // "alex", "vgg", "squeeze"
  // torchvision's weights of the trunk (or a state dict of the lpips package, which holds
  // the heads too), and the heads as the lpips package ships them. "": looked for.
  std::filesystem::path trunk, heads;
  // Sides that images are brought to first, bilinearly; 0: as they are. SlimFlow takes 64
  // with the corners aligned, rectified flow++ 224 without.
  int64_t resize = 0;
  bool align_corners = true;
  bool average_pooling = false;  // rectified flow++ (piq's LPIPS)
};
// "net", "trunk", "heads", "resize" (a number or "native"), "align_corners", "pooling"
// ("max" | "average").
LpipsOptions read_lpips_options(const Config& options);

class Lpips : public PerceptualDistance {
 public:
  // Weights by name, as open_weights gives them. Throws DataError naming what is missing.
  Lpips(const LpipsOptions& options, const std::map<std::string, at::Tensor>& trunk,
        const std::map<std::string, at::Tensor>& heads);
  at::Tensor operator()(const at::Tensor& a, const at::Tensor& b) override;
  std::string name() const override { return "lpips-" + options_.net; }
  // The terms of the sum, each [B].
  std::vector<at::Tensor> layers(const at::Tensor& a, const at::Tensor& b);

 private:
  void follow(const at::Tensor& images);
  at::Tensor prepared(const at::Tensor& images) const;

  LpipsOptions options_;
  std::map<std::string, at::Tensor> trunk_;
  std::vector<at::Tensor> heads_;     // [1, C, 1, 1]
  at::Tensor shift_, scale_;          // [1, 3, 1, 1]
};

// Finds the files: what the options name, else in FLOWMAP_LPIPS (heads NET.pth, trunks under
// torchvision's names) and, trunks only, where torchvision keeps its own
// (TORCH_HOME/hub/checkpoints, by default ~/.cache/torch). Nothing is downloaded. Throws
// UsageError saying which file is missing and where it comes from.
std::shared_ptr<Lpips> make_lpips(const LpipsOptions& options);

}  // namespace flowmap
