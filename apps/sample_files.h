// Where the samples of `flowmap generate` go: PNG files, a grid, npz, safetensors. An npz
// holds pictures (1 or 3 channels) as bytes, arr_0 [N,H,W,C] and arr_1 classes; latents
// (other channels) as float32 samples [N,C,H,W] and labels; point sets as points [N,d] and
// labels.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "samplers/engine.h"

namespace flowmap::apps {

struct SampleFiles {
  std::string outdir, grid, npz, raw;
  bool subdirs = false;
  bool overwrite = false;
  int grid_columns = 8;

  // "OUTDIR/000012.png", or "OUTDIR/012000/012345.png" with subdirs (EDM's names).
  std::filesystem::path image_path(std::int64_t number) const;
  // Does anything but single pictures want the samples?
  bool collects() const { return !grid.empty() || !npz.empty() || !raw.empty(); }
};

class SampleWriter {
 public:
  // Refuses outputs that `sample_shape` cannot have, makes folders, and refuses files
  // that are there. `numbers` names the rows (seeds); `texts` go into every PNG.
  SampleWriter(SampleFiles files, std::vector<std::int64_t> sample_shape,
               std::vector<std::int64_t> numbers, std::map<std::string, std::string> texts);

  void add(const samplers::GeneratedBatch& batch);
  // Writes the grid, npz and safetensors files.
  void finish();

  int64_t written() const { return written_; }
  int64_t kept() const { return kept_; }  // pictures that were there

 private:
  bool is_image() const { return sample_shape_.size() == 3; }
  // Latents have no picture: clipped to bytes they would be of no use.
  bool is_picture() const {
    return is_image() && (sample_shape_[0] == 1 || sample_shape_[0] == 3);
  }
  void write_pictures(const at::Tensor& bytes, const samplers::GeneratedBatch& batch);

  SampleFiles files_;
  std::vector<std::int64_t> sample_shape_, numbers_;
  std::map<std::string, std::string> texts_;
  std::vector<at::Tensor> floats_, bytes_, classes_;
  int64_t written_ = 0, kept_ = 0;
};

}  // namespace flowmap::apps
