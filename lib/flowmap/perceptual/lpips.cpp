#include "flowmap/perceptual/lpips.h"

#include <ATen/ATen.h>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/perceptual/trunks.h"

namespace flowmap {
namespace {

// "features.0.weight" (torchvision), "net.slice1.0.weight", "slice1.0.weight" (lpips) ->
// "0.weight"; "" for what belongs to something else.
std::string trunk_name(std::string name) {
  for (const char* prefix : {"net.", "features."})
    if (name.starts_with(prefix)) name.erase(0, std::string(prefix).size());
  if (name.starts_with("slice")) {
    const auto dot = name.find('.');
    if (dot == std::string::npos) return "";
    name.erase(0, dot + 1);
  }
  return !name.empty() && name[0] >= '0' && name[0] <= '9' ? name : "";
}

at::Tensor frozen_weights(const at::Tensor& tensor) {
  const at::ScalarType type =
      tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return tensor.detach().to(type).clone();
}

}  // namespace

Lpips::Lpips(const LpipsOptions& options, const std::map<std::string, at::Tensor>& trunk,
             const std::map<std::string, at::Tensor>& heads)
    : options_(options) {
  const TrunkLayout& layout = trunk_layout(options.net);
  std::map<std::string, at::Tensor> given;
  for (const auto& [name, tensor] : trunk)
    if (const std::string ours = trunk_name(name); !ours.empty()) given[ours] = tensor;
  for (const auto& [name, shape] : trunk_parameters(layout)) {
    const auto found = given.find(name);
    if (found == given.end() || found->second.sizes() != at::IntArrayRef(shape))
      throw DataError(options.trunk.string(), {},
                      "features." + name + " of " + shape_text(shape) + ", of torchvision's " +
                          layout.file,
                      found == given.end() ? "no such tensor"
                                           : shape_text(found->second.sizes()));
    trunk_[name] = frozen_weights(found->second);
  }
  int64_t channels = 0, layer = 0;
  for (const TrunkStep& step : layout.steps) {
    if (!step.tap) continue;
    channels = step.layer == TrunkLayer::fire ? 2 * step.out : step.out;
    const std::string name = "lin" + std::to_string(layer++) + ".model.1.weight";
    const auto found = heads.find(name);
    if (found == heads.end() || found->second.numel() != channels)
      throw DataError(options.heads.string(), {},
                      name + " of " + std::to_string(channels) +
                          " numbers (a head of lpips/weights/v0.1/" + options.net + ".pth)",
                      found == heads.end() ? "no such tensor"
                                           : shape_text(found->second.sizes()));
    heads_.push_back(frozen_weights(found->second).view({1, channels, 1, 1}));
  }
  shift_ = at::tensor({-.030, -.088, -.188}, at::kDouble).view({1, 3, 1, 1});
  scale_ = at::tensor({.458, .448, .450}, at::kDouble).view({1, 3, 1, 1});
}

// Weights go where the images are, once.
void Lpips::follow(const at::Tensor& images) {
  const at::ScalarType type =
      images.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::TensorOptions wanted = images.options().dtype(type).requires_grad(false);
  if (shift_.device() == wanted.device() && shift_.scalar_type() == type &&
      heads_[0].device() == wanted.device() && heads_[0].scalar_type() == type)
    return;
  for (auto& [name, tensor] : trunk_) tensor = tensor.to(wanted);
  for (at::Tensor& head : heads_) head = head.to(wanted);
  shift_ = shift_.to(wanted);
  scale_ = scale_.to(wanted);
}

at::Tensor Lpips::prepared(const at::Tensor& images) const {
  at::Tensor x = images.to(shift_.scalar_type());
  if (x.size(1) == 1) x = x.expand({-1, 3, -1, -1});
  const int64_t side = options_.resize;
  if (side > 0 && (x.size(2) != side || x.size(3) != side))
    x = at::upsample_bilinear2d(x, {side, side}, options_.align_corners);
  return (x - shift_) / scale_;
}

std::vector<at::Tensor> Lpips::layers(const at::Tensor& a, const at::Tensor& b) {
  FM_CHECK_USAGE(a.dim() == 4 && (a.size(1) == 1 || a.size(1) == 3), name(),
                 ": compares gray or RGB images, got samples of shape ",
                 shape_text(a.sizes().slice(1)));
  FM_CHECK(a.sizes() == b.sizes(), name(), ": images of two shapes");
  follow(a);
  const TrunkLayout& layout = trunk_layout(options_.net);
  const auto of_a = run_trunk(layout, trunk_, prepared(a), options_.average_pooling);
  const auto of_b = run_trunk(layout, trunk_, prepared(b), options_.average_pooling);
  std::vector<at::Tensor> terms;
  for (std::size_t i = 0; i < of_a.size(); ++i) {
    // Out of autocast's type: small differences are squared.
    const at::ScalarType type = heads_[i].scalar_type();
    const at::Tensor gap = unit_features(of_a[i].to(type)) - unit_features(of_b[i].to(type));
    terms.push_back((gap.square() * heads_[i]).sum(1).mean({1, 2}));
  }
  return terms;
}

at::Tensor Lpips::operator()(const at::Tensor& a, const at::Tensor& b) {
  const std::vector<at::Tensor> terms = layers(a, b);
  return at::stack(terms).sum(0);
}

}  // namespace flowmap
