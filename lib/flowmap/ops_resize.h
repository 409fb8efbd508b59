// Pictures as bytes to the resized, normalised float input of a network in one pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "flowmap/resample.h"

namespace flowmap::ops {

// One axis of a separable filter: output i is the sum over k < count[i] of
// weights[k, i] * input[first[i] + k]. The tensors are on the CPU until moved.
struct ResizeTable {
  int64_t inputs = 0;
  at::Tensor first;    // int32 [outputs]
  at::Tensor count;    // int32 [outputs]
  at::Tensor weights;  // float64 [taps, outputs]

  int64_t outputs() const { return first.size(0); }
  ResizeTable to(const c10::Device& device) const;
};

// Pillow's filter, its support widened when shrinking; equal sizes leave the axis alone.
// Makers of tables throw UsageError on sizes below 1.
ResizeTable pillow_table(int64_t inputs, int64_t outputs, ResampleFilter filter);

// TensorFlow 1's ResizeBilinear: samples at i * inputs / outputs. No antialiasing;
// coordinates in float32, whose rounding is part of the tools' results.
ResizeTable tensorflow_bilinear_table(int64_t inputs, int64_t outputs);

// torch.nn.functional.interpolate(mode="bilinear", align_corners=False): samples at
// (i + 1/2) * inputs / outputs - 1/2, not below 0. No antialiasing; float32 coordinates.
ResizeTable pytorch_bilinear_table(int64_t inputs, int64_t outputs);

// After the filter: clip to 0..255 if asked, then (value - shift) * scale.
struct PixelRange {
  bool clip = false;
  double shift = 0;
  double scale = 1;
};

// pictures uint8 [B, C, H, W], C 1 (becomes three equal channels) or 3, contiguous or as a
// permuted [B, H, W, C] (read where they lie; other strides are copied), on any device
// -> float32 [B, 3, rows.outputs(), columns.outputs()] there. Along the columns first,
// rounded to float32, then along the rows; sums in float64. Every picture comes out as it
// does alone. No gradient. Throws UsageError where the pictures are no such tensor or a
// table does not fit them.
at::Tensor resize_normalize(const at::Tensor& pictures, const ResizeTable& rows,
                            const ResizeTable& columns, const PixelRange& range = {});

}  // namespace flowmap::ops
