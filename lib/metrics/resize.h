// Bringing pictures to a detector's size as the established tools do it, each in its own
// way: features of the same picture differ by up to a quarter between them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace flowmap::metrics {

enum class ResizeMode {
  // clean-fid: Pillow's bicubic on float channels, clipped to 0..255, not rounded
  // (Parmar et al. 2022, arXiv 2104.11222).
  clean,
  // TensorFlow 1's ResizeBilinear: samples at i * in / out in float32, no antialiasing.
  // torch-fidelity, and the network of the original FID.
  legacy_tensorflow,
  // torch.nn.functional.interpolate(mode="bilinear", align_corners=False): pytorch-fid.
  legacy_pytorch,
  // EDM and StyleGAN: NVIDIA's network resizes inside, through a sampling grid that
  // retraces TensorFlow's positions.
  edm,
};

// "clean", "legacy_tensorflow", "legacy_pytorch", "edm"; `what` names the flag or key in
// errors. Throws UsageError.
ResizeMode parse_resize_mode(const std::string& text, std::string_view what);
std::string resize_mode_name(ResizeMode mode);

// Which numbers come out.
enum class PixelScale {
  bytes,    // 0..255
  network,  // what the mode's tools feed: 2 x/255 - 1 (legacy_pytorch), (x - 128) / 128
};

// pictures: uint8 [B, C, H, W], C 1 (becomes three equal channels) or 3, on any device ->
// float32 [B, 3, height, width] there. Each picture comes out as it does alone. Against the
// tools on 0..255: 1e-4. Throws UsageError where `pictures` are no such tensor or a size is
// below 1.
at::Tensor resize_pictures(const at::Tensor& pictures, ResizeMode mode, int64_t height,
                           int64_t width, PixelScale scale);

}  // namespace flowmap::metrics
