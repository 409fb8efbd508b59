// Crops and sizes as EDM's and EDM2's dataset_tool.py make them (NVlabs/edm, NVlabs/edm2;
// center-crop-dhariwal is guided-diffusion's, Dhariwal and Nichol 2021).
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "flowmap/formats/image.h"
#include "flowmap/resample.h"

namespace flowmap {

enum class PictureTransform { none, center_crop, center_crop_wide, center_crop_dhariwal };

// "none", "center-crop", "center-crop-wide", "center-crop-dhariwal". Throws UsageError
// naming `what`.
PictureTransform parse_picture_transform(const std::string& text, std::string_view what);

struct TransformOptions {
  PictureTransform transform = PictureTransform::none;
  int width = 0, height = 0;  // 0: as the picture is (none only)
  ResampleFilter filter = ResampleFilter::lanczos;
  bool gray_to_rgb = false;   // of `none`; the crops always give RGB, as EDM's
  int pad = 0;                // black pixels around each picture, before all else
};

// Throws UsageError on a transform without its size, on center-crop-wide higher than
// wide, on center-crop-dhariwal that is not square; the flags are called --resolution,
// --transform and --pad.
void check_transform(const TransformOptions& options);

// An alpha channel is dropped first, without blending (EDM2: convert('RGB')). Then:
//   none                  resized to width x height, whatever its shape
//   center-crop           the largest square of the centre, resized
//   center-crop-wide      the centre at the aspect of width x height, resized, black bars
//                         above and below up to width x width; nullopt where the picture
//                         is smaller than that
//   center-crop-dhariwal  halved by boxes while twice as large, then bicubic, then the
//                         centre
std::optional<Image> transform_picture(Image image, const TransformOptions& options);

}  // namespace flowmap
