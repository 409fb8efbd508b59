// Geometric augmentation of images with labels for the network (Karras et al. 2022, arXiv
// 2206.00364, appendix F.2, on Karras et al. 2020, arXiv 2006.06676). The network is told
// what was done, so that samples made under labels of zero are not augmented.
#pragma once

#include <ATen/core/Tensor.h>

#include "flowmap/draw.h"

namespace flowmap {

constexpr int64_t kAugmentLabels = 9;

// What is done to each image: [B], float32 on the CPU; 0 is nothing. In the order of
// doing: flips; then, in one resampling, zoom, rotation, stretching and shift.
struct AugmentParameters {
  at::Tensor xflip, yflip;         // 0 or 1
  at::Tensor zoom;                 // size times 2^(0.2 zoom), unit normal
  at::Tensor rotation;             // radians, counter-clockwise
  at::Tensor stretch;              // size times 2^(0.2 stretch) along stretch_angle and
  at::Tensor stretch_angle;        // divided by it across; unit normal, radians
  at::Tensor xshift, yshift;       // to the right and down, in eighths of the image

  // [B, 9]: xflip, yflip, zoom, cos(rotation) - 1, sin(rotation), stretch cos(angle),
  // stretch sin(angle), xshift, yshift. EDM's layout.
  at::Tensor labels() const;
};

// xflip for half of the images; each of vertical flip (half of these), zoom, rotation,
// stretch (half of these along the axes) and shift with `probability` in (0, 1], by
// streams "augment/...".
AugmentParameters draw_augmentation(double probability, const Draw& rows);

// images [B, C, H, W], float, on any device. Reflected at their edges (once; what lies
// beyond is 0) and resampled on a grid twice as fine between the low-pass filters of the
// sym6 wavelet, which undo each other: whole-pixel shifts are exact to rounding. Images
// whose parameters are 0 are returned as they are, bit for bit.
at::Tensor augment_images(const at::Tensor& images, const AugmentParameters& parameters);

struct Augmented {
  at::Tensor images;  // as given
  at::Tensor labels;  // [B, 9], on the images' device
};
Augmented augment(const at::Tensor& images, double probability, const Draw& rows);

}  // namespace flowmap
