// What a folder of pairs says of itself: `pairs.json`. A pair is a noise, the sample that a
// teacher made from it, and its class; noise comes first wherever both are named.
//
// Shards `pairs-000000.safetensors`, ... hold "images" [n, sample...] (u8, f16 or f32),
// "classes" int64 [n] where the teacher has classes, and "noise" float32 [n, sample...] only
// where it is no function of the seed. Row r of a shard has the seed first_seed + r, and its
// noise is Draw::per_seed({seed}).normal("latents", sample_shape): what `flowmap generate`
// starts from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "flowmap/base/dtype.h"

namespace flowmap {

// How pairs were made; what differs in anything but `teacher` and `guide` does not mix.
struct PairRecipe {
  std::string teacher, teacher_sha256;  // name of the file without its folder
  std::string teacher_options;          // how the file was read: a key, an architecture
  std::string guide, guide_sha256;      // the weaker network of guidance, or ""
  std::string solver, solver_options;   // its name; the options given, a JSON object
  std::string schedule;                 // where the knots come from: "uniform"
  std::vector<double> times;            // the knots; sigmas where `sigma`
  bool sigma = false;
  double sigma_min = 0, sigma_max = 0, epsilon_s = 0;
  double guidance = 1;
  std::string dtype;    // of the computation: "float32"
  std::string classes;  // "seed": drawn from it; "3": all of that class; "none"
  // "seeds", or "images SHA256": the images of that file, inverted to their noise; their
  // seeds are their positions.
  std::string source;
  std::vector<int64_t> sample_shape;
  int64_t class_count = 0;
  DType images = DType::F32;  // U8 (EDM's rule), F16, F32; the floats unclipped
  bool stored_noise = false;
};

struct PairShard {
  std::string file;
  std::uint64_t first_seed = 0;
  int64_t count = 0;
  int64_t bytes = 0;   // 0: not made yet
  std::string sha256;
};

struct PairManifest {
  PairRecipe recipe;
  std::string command;  // words of `flowmap pairs` that make more of these, without seeds
  std::string tool;     // "flowmap 0.1"
  int64_t shard_size = 0;
  std::vector<PairShard> shards;

  int64_t count() const;  // pairs of all shards, made or not
  std::string seeds() const;  // "0-9999,20000-29999"
  // The command that makes what is missing in `folder`.
  std::string remedy(const std::filesystem::path& folder) const;
};

struct SeedRange {
  std::uint64_t first = 0;
  int64_t count = 0;
};

// Ascending seeds without repetition as ranges. Throws UsageError naming `flag`.
std::vector<SeedRange> seed_ranges(const std::vector<int64_t>& seeds,
                                   const std::string& flag);
// The shards of ascending ranges: neighbours joined, each run cut every shard_size seeds, so
// that the same seeds give the same files whoever made them.
std::vector<PairShard> plan_shards(const std::vector<SeedRange>& ranges,
                                   int64_t shard_size);

std::filesystem::path pair_manifest_path(const std::filesystem::path& folder);
// Throws UsageError where there is no manifest, DataError where it is none.
PairManifest read_pair_manifest(const std::filesystem::path& folder);
// Atomic; equal manifests give equal bytes.
void write_pair_manifest(const std::filesystem::path& folder, const PairManifest& manifest);

// "" where the recipes agree, else the first difference: "solver: heun, not euler".
std::string recipe_difference(const PairRecipe& a, const PairRecipe& b);

// Of a file, or of a folder: over the names and sums of its regular files.
std::string weights_checksum(const std::filesystem::path& path);

// "" or what is wrong: "is missing", "is cut: 10 of 20 bytes", "was altered (sha256 ...)".
// Sums are computed where `checksums` is set and the file is not as it was when its sum was
// last found right (size and time of change, kept in checked.json).
std::vector<std::string> shard_faults(const std::filesystem::path& folder,
                                      const PairManifest& manifest, bool checksums);

}  // namespace flowmap
