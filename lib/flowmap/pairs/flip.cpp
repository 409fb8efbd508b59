#include "flowmap/pairs/flip.h"

#include <ATen/ATen.h>

#include "flowmap/base/error.h"

namespace flowmap {

at::Tensor flip_equivariance(const NoiseMap& map, const at::Tensor& noise,
                             int64_t dimension) {
  FM_CHECK_USAGE(noise.dim() == 4, "flips are of images [B, C, H, W], not of shape ",
                 noise.sizes());
  const at::Tensor made = map(noise).to(at::kDouble);
  const at::Tensor flipped = map(noise.flip({dimension})).to(at::kDouble);
  const auto norm = [](const at::Tensor& x) { return x.flatten(1).norm(2, {1}); };
  return norm(made.flip({dimension}) - flipped) / norm(made);
}

}  // namespace flowmap
