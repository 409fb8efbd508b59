// Samples to be scored, from whatever holds them.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "flowmap/data/dataset.h"

namespace flowmap::apps {

// A data set without labels out of
//   a folder of PNG/JPEG pictures (recursive, sorted by path; decoded when asked for),
//   an EDM zip, IDX files or a folder of them (make_dataset),
//   .npz / .npy: `arr_0` uint8 images [N, H, W, C], or float points [N, d] under
//   `points` or `arr_0`,
//   .safetensors: `images` float [N, C, H, W] in [-1, 1] (made bytes by EDM's rule), or
//   points [N, d] under `points` or `images`.
// `flag` names the option in errors ("--images"). Throws UsageError (no such path, an
// empty folder, an unknown kind), DataError (content: pictures of different sizes).
std::shared_ptr<Dataset> open_samples(const std::filesystem::path& path,
                                      std::string_view flag);

// "28x28" (height x width), "" for points.
std::string resolution_text(const DatasetInfo& info);

}  // namespace flowmap::apps
