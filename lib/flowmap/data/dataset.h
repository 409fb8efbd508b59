// Data sets: samples and labels by index, kept in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/config.h"

namespace flowmap {

struct DatasetInfo {
  std::string name;                   // short, for run folders: "fashion-mnist-28x28"
  std::vector<int64_t> sample_shape;  // {C, H, W}, or {d} for points
  int64_t label_dim = 0;              // width of labels(); 0: none used
  int64_t count = 0;                  // samples; endless sets (synthetic): 2^40
  bool images = true;                 // images [C, H, W], or points
  bool pairs = false;                 // noise() knows what each sample was made from
  bool flip = false;  // horizontal flips are wanted: of a sample and its noise together
};

class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual DatasetInfo info() const = 0;
  // Moves what is kept in memory to `device` where that fits into `limit` bytes there, so
  // that samples are gathered and come out there. Does nothing to sets that compute their
  // samples. Returns whether it moved.
  virtual bool place(at::Device device, int64_t limit) {
    static_cast<void>(device), static_cast<void>(limit);
    return false;
  }
  // index int64 [B] on the CPU. Images: uint8 [B, C, H, W], or float32 as the network sees
  // them (about [-1, 1], unclipped). Points: float32 [B, d]. On the CPU unless placed
  // elsewhere; so are labels.
  virtual at::Tensor samples(const at::Tensor& index) const = 0;
  // float32 [B, label_dim], one-hot or as stored; undefined where label_dim is 0.
  virtual at::Tensor labels(const at::Tensor& index) const = 0;
  // float32 [B, sample...]: the unit normals from which a teacher made the samples.
  // Undefined unless info().pairs.
  virtual at::Tensor noise(const at::Tensor& index) const {
    static_cast<void>(index);
    return {};
  }
};

struct DatasetEntry {
  const char* name;
  const char* summary;
  std::shared_ptr<Dataset> (*make)(const Config& options);
};
const std::vector<DatasetEntry>& dataset_registry();

// options: "type" (a name of the registry, or "auto": by what "path" is), "path",
// "labels" (bool: use class labels), "max_images", "split" ("train" | "test") and those
// of the type. Throws UsageError (options), DataError (content).
std::shared_ptr<Dataset> make_dataset(const Config& options);

// uint8 images to float32 in [-1, 1] (x / 127.5 - 1, EDM); floats pass through.
at::Tensor samples_to_float(const at::Tensor& samples);
// float [-1, 1] to bytes by EDM's rule: (x * 127.5 + 128) clamped and truncated.
at::Tensor images_to_bytes(const at::Tensor& images);

}  // namespace flowmap
