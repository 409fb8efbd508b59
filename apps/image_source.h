// Samples to be scored, from whatever holds them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flowmap/data/dataset.h"
#include "metrics/scoring.h"

namespace flowmap::apps {

// What a pass over samples met.
struct StreamReport {
  int64_t delivered = 0;
  std::vector<int64_t> rows;           // which were delivered
  std::vector<std::string> broken;    // "FILE:ENTRY: what is wrong", at most a few
  int64_t broken_count = 0;
  std::set<std::string> resolutions;  // "28x28" (height x width) of what was delivered
};

// One portion: pictures of one size in one tensor.
using DeliverPortion = std::function<void(std::span<const metrics::SampleGroup>)>;

// Samples in order. Pictures are decoded as they are asked for, ahead of the receiver on
// threads of their own, and never all in memory.
class SampleSource {
 public:
  virtual ~SampleSource() = default;
  // sample_shape is that of the first picture that can be read; others may differ.
  virtual DatasetInfo info() const = 0;
  // The samples `rows`, in this order, in portions of at most `batch`. Channels are 1 or
  // 3: alpha is dropped, as PIL's convert("RGB") does. Once a picture is broken and not
  // `skip_bad`, the rest is decoded to count the broken ones and no more is delivered.
  virtual StreamReport stream(const std::vector<int64_t>& rows, int64_t batch,
                              bool skip_bad, const DeliverPortion& deliver) const = 0;
};

// Out of
//   pictures: a folder (recursive), a zip, CIFAR tarballs, IDX files, npz with `arr_0`
//   uint8 [N, H, W, C] (data/picture_source.h),
//   .npz / .npy: float points [N, d] under `points` or `arr_0`, float images [N, C, H, W]
//   in [-1, 1] (made bytes by EDM's rule),
//   .safetensors: the same under `points` or `images`.
// `flag` names the option in errors ("--images"). Throws UsageError (no such path, an
// empty folder, an unknown kind, statistics), DataError (content).
std::shared_ptr<SampleSource> open_source(const std::filesystem::path& path,
                                          std::string_view flag,
                                          const std::string& split = "train");
// A data set's samples; its rows below 2^26.
std::shared_ptr<SampleSource> source_of(std::shared_ptr<const Dataset> data);

// The same as a data set without labels; pictures must be of one size (DataError).
std::shared_ptr<Dataset> open_samples(const std::filesystem::path& path,
                                      std::string_view flag);

// "28x28" (height x width), "" for points.
std::string resolution_text(const DatasetInfo& info);

}  // namespace flowmap::apps
