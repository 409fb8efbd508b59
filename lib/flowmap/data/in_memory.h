// A labelled image set held in memory as bytes; what the readers of files return.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "flowmap/data/dataset.h"

namespace flowmap {

struct InMemoryImages {
  std::string name;
  std::string source;    // path, for errors
  at::Tensor images;     // uint8 [N, C, H, W]
  at::Tensor classes;    // int64 [N], or undefined
  at::Tensor vectors;    // float32 [N, label_dim], or undefined; instead of classes
  int64_t class_count = 0;
};

// "max_images" keeps a fixed pseudo-random subset in the original order (files are often
// sorted by class); 0 keeps all. Throws UsageError where labels are asked for and absent.
std::shared_ptr<Dataset> in_memory_dataset(InMemoryImages content, bool use_labels,
                                           int64_t max_images);

// The makers behind dataset_registry().
std::shared_ptr<Dataset> make_idx_dataset(const Config& options);
std::shared_ptr<Dataset> make_fashion_mnist(const Config& options);
std::shared_ptr<Dataset> make_pictures(const Config& options);
// Options of its own: "flip" (pairs are flipped, noise and sample together), "noise" ("seeds":
// made when asked for; "memory": made once and kept), "check" (sums of the shards), "real" (a
// second folder, of inverted images) and "real_fraction" (its share of the samples).
std::shared_ptr<Dataset> make_pairs(const Config& options);
std::shared_ptr<Dataset> make_checkerboard(const Config& options);
std::shared_ptr<Dataset> make_eight_gaussians(const Config& options);
std::shared_ptr<Dataset> make_moons(const Config& options);
std::shared_ptr<Dataset> make_spirals(const Config& options);

}  // namespace flowmap
