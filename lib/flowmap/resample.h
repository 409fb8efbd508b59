// Resizing as Pillow does it: separable filters whose support widens when shrinking, so
// that nothing aliases. Pillow is what data sets are made with, and what clean-fid calls.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "flowmap/formats/image.h"

namespace flowmap {

enum class ResampleFilter { box, bilinear, hamming, bicubic, lanczos };

// "box", "bilinear", "hamming", "bicubic", "lanczos"; `what` names the flag or key in
// errors. Throws UsageError.
ResampleFilter parse_resample_filter(const std::string& text, std::string_view what);

// The weights of one direction: output i is the sum over k < count[i] of
// weights[i * taps + k] times input first[i] + k. They sum to 1.
struct ResampleWeights {
  std::int64_t taps = 0;  // the most that any output has
  std::vector<std::int64_t> first, count;
  std::vector<double> weights;  // [outputs, taps], zero behind count
};
// Both sizes at least 1. Throws UsageError.
ResampleWeights resample_weights(std::int64_t inputs, std::int64_t outputs,
                                 ResampleFilter filter);

// Image.resize((width, height), filter) of 8-bit pictures with 1 to 4 channels, to the
// last bit of Pillow 13.0 (until 12 the horizontal pass always came first: differences of
// 1 where it does not now). 22-bit fixed-point weights, bytes between the passes. The
// last of 2 or 4 channels is alpha: the others are multiplied by it on the way, as Pillow
// does with LA and RGBA. Throws UsageError on sizes below 1.
Image resize_bytes(const Image& image, int width, int height, ResampleFilter filter);

// The same of float channels (Pillow's mode F): planes float32 [..., H, W] on the CPU ->
// float32 [..., height, width]. Weights in float64, sums in float64, float32 between the
// passes; not clipped. Error against Pillow 1e-5 of the range.
at::Tensor resize_planes(const at::Tensor& planes, int64_t height, int64_t width,
                         ResampleFilter filter);

}  // namespace flowmap
