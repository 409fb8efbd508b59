// Folders of pairs: reading, making shard by shard, joining.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/formats/safetensors.h"
#include "flowmap/pairs/pair_manifest.h"

namespace flowmap {

// A complete folder of pairs, mapped. Row i is the i-th seed.
class PairStore {
 public:
  // Throws UsageError where there is no such folder, DataError naming the first shard that is
  // missing, cut or (with `checksums`) altered, and the command that makes it again.
  explicit PairStore(const std::filesystem::path& folder, bool checksums = true);

  const PairManifest& manifest() const { return manifest_; }
  const PairRecipe& recipe() const { return manifest_.recipe; }
  int64_t count() const { return starts_.back(); }
  bool has_classes() const { return recipe().class_count > 0; }

  // index int64 [B] on the CPU, in [0, count()).
  std::vector<std::uint64_t> seeds(const at::Tensor& index) const;
  // [B, sample...]: uint8 as stored, or float32.
  at::Tensor images(const at::Tensor& index) const;
  // int64 [B], or undefined.
  at::Tensor classes(const at::Tensor& index) const;
  // float32 [B, sample...], unit normals: of the seeds, or as stored.
  at::Tensor noise(const at::Tensor& index) const;

 private:
  // The rows of tensor `name` of the shards.
  at::Tensor gather(const char* name, const at::Tensor& index, at::ScalarType type,
                    at::IntArrayRef row_shape) const;
  std::pair<std::size_t, int64_t> place(int64_t row) const;  // shard, row in it

  std::filesystem::path folder_;
  PairManifest manifest_;
  std::vector<int64_t> starts_;  // first row of each shard, and the count
  std::vector<SafetensorsReader> readers_;
};

// Makes the shards of a folder. What is there and in order is kept.
class PairWriter {
 public:
  // `wanted` without shards; they are planned from `ranges`. Makes the folder, or continues
  // one: throws UsageError where it holds pairs of another recipe, other seeds or another
  // shard size, saying which.
  PairWriter(std::filesystem::path folder, PairManifest wanted,
             const std::vector<SeedRange>& ranges);

  const PairManifest& manifest() const { return manifest_; }
  // Positions in manifest().shards of what is to be made; sums of what is there are checked.
  const std::vector<std::size_t>& missing() const { return missing_; }
  int64_t missing_pairs() const;

  // Writes shard `position` whole, atomically, and then the manifest. images float
  // [n, sample...] (any float type, unclipped; or already of the stored type), classes int64
  // [n] or undefined, noise float32 [n, sample...] where it is stored. Throws Error where
  // images are not finite, naming the seed.
  void write(std::size_t position, const at::Tensor& images, const at::Tensor& classes,
             const at::Tensor& noise);

  // What was made of a shard when the user stopped, under a name that no reader looks for.
  void keep_part(std::size_t position, const at::Tensor& images, const at::Tensor& classes,
                 const at::Tensor& noise);
  struct Part {
    at::Tensor images, classes, noise;  // undefined: there is none
  };
  // What keep_part kept of this shard, if it fits.
  Part part(std::size_t position) const;

 private:
  std::filesystem::path part_path(std::size_t position) const;

  std::filesystem::path folder_;
  PairManifest manifest_;
  std::vector<std::size_t> missing_;
};

// One folder out of several, with the bytes that one run would have written; nothing is
// computed anew. Shards are cut as those of the first source. Throws UsageError where seeds
// overlap or recipes differ, naming both folders; DataError as PairStore.
PairManifest merge_pairs(const std::filesystem::path& dest,
                         const std::vector<std::filesystem::path>& sources);

}  // namespace flowmap
