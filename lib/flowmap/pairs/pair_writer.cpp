#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/sha256.h"
#include "flowmap/base/text.h"
#include "flowmap/data/dataset.h"
#include "flowmap/pairs/pair_store.h"
#include "flowmap/tensor_io.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

// As they are stored; floats are not clipped, since the teacher's map has no clip.
at::Tensor stored_images(const at::Tensor& images, const PairRecipe& recipe,
                         const PairShard& shard) {
  const at::ScalarType type = scalar_type(recipe.images);
  if (images.scalar_type() == at::kByte) return images;
  const at::Tensor finite = images.isfinite().flatten(1).all(1);
  if (!finite.all().item<bool>()) {
    const auto row = finite.logical_not().nonzero()[0][0].item<int64_t>();
    throw Error(format("the sample of seed %llu is not finite: the network gives NaN or "
                       "infinity; try --dtype float32 or float64, or another snapshot",
                       static_cast<unsigned long long>(shard.first_seed) + row));
  }
  if (type == at::kByte) return images_to_bytes(images);
  const at::Tensor stored = images.to(type);
  FM_CHECK(type != at::kHalf || stored.isfinite().all().item<bool>(), shard.file,
           ": samples beyond 65504 do not fit f16; use --dtype-images f32");
  return stored;
}

std::map<std::string, at::Tensor> shard_tensors(const at::Tensor& images,
                                                const at::Tensor& classes,
                                                const at::Tensor& noise) {
  std::map<std::string, at::Tensor> tensors{{"images", images}};
  if (classes.defined()) tensors["classes"] = classes;
  if (noise.defined()) tensors["noise"] = noise;
  return tensors;
}

// What a shard says of itself, so that it is told apart without the manifest.
std::map<std::string, std::string> shard_texts(const PairRecipe& recipe,
                                               const PairShard& shard) {
  return {{"format", "flowmap pairs 1"},
          {"first_seed", std::to_string(shard.first_seed)},
          {"count", std::to_string(shard.count)},
          {"teacher_sha256", recipe.teacher_sha256}};
}

}  // namespace

PairWriter::PairWriter(fs::path folder, PairManifest wanted,
                       const std::vector<SeedRange>& ranges)
    : folder_(std::move(folder)), manifest_(std::move(wanted)) {
  manifest_.shards = plan_shards(ranges, manifest_.shard_size);
  FM_CHECK_USAGE(!manifest_.shards.empty(), "--seeds: at least one is needed");
  if (fs::exists(pair_manifest_path(folder_))) {
    const PairManifest there = read_pair_manifest(folder_);
    const std::string other = "; give another --dest (`flowmap pairs merge` joins folders)";
    const std::string difference = recipe_difference(there.recipe, manifest_.recipe);
    FM_CHECK_USAGE(difference.empty(), folder_.string(), " holds other pairs: ", difference,
                   other);
    FM_CHECK_USAGE(there.shard_size == manifest_.shard_size, folder_.string(),
                   " has shards of ", there.shard_size, ", not ", manifest_.shard_size,
                   "; give --shard-size ", there.shard_size);
    FM_CHECK_USAGE(there.seeds() == manifest_.seeds(), folder_.string(), " is for seeds ",
                   there.seeds(), ", not ", manifest_.seeds(), other);
    manifest_ = there;
  } else {
    make_directories(folder_);
    write_pair_manifest(folder_, manifest_);
  }
  const std::vector<std::string> faults = shard_faults(folder_, manifest_, true);
  for (std::size_t i = 0; i < faults.size(); ++i)
    if (!faults[i].empty()) missing_.push_back(i);
}

int64_t PairWriter::missing_pairs() const {
  int64_t pairs = 0;
  for (const std::size_t i : missing_) pairs += manifest_.shards[i].count;
  return pairs;
}

void PairWriter::write(std::size_t position, const at::Tensor& images,
                       const at::Tensor& classes, const at::Tensor& noise) {
  const PairRecipe& recipe = manifest_.recipe;
  PairShard& shard = manifest_.shards.at(position);
  const auto check = [&](const char* what, const at::Tensor& tensor, bool wanted, bool rows) {
    FM_CHECK(tensor.defined() == wanted, shard.file, ": ", what, wanted ? "" : " not",
             " expected");
    FM_CHECK(!wanted || (tensor.size(0) == shard.count &&
                         (rows ? tensor.dim() == 1
                               : tensor.sizes().slice(1) ==
                                     at::IntArrayRef(recipe.sample_shape))),
             shard.file, ": ", what, " of shape ", tensor.sizes(), " for ", shard.count,
             " pairs");
  };
  check("images", images, true, false);
  check("classes", classes, recipe.class_count > 0, true);
  check("noise", noise, recipe.stored_noise, false);
  const fs::path path = folder_ / shard.file;
  save_tensors(path, shard_tensors(stored_images(images, recipe, shard), classes, noise),
               shard_texts(recipe, shard));
  // Read back, so that the sum is of what the disk has.
  shard.sha256 = sha256_file(path);
  shard.bytes = static_cast<int64_t>(fs::file_size(path));
  write_pair_manifest(folder_, manifest_);
  std::error_code ignored;
  fs::remove(part_path(position), ignored);
}

fs::path PairWriter::part_path(std::size_t position) const {
  return folder_ / ("unfinished-" + manifest_.shards.at(position).file);
}

void PairWriter::keep_part(std::size_t position, const at::Tensor& images,
                           const at::Tensor& classes, const at::Tensor& noise) {
  const PairShard& shard = manifest_.shards.at(position);
  save_tensors(part_path(position),
               shard_tensors(stored_images(images, manifest_.recipe, shard), classes, noise),
               shard_texts(manifest_.recipe, shard));
}

PairWriter::Part PairWriter::part(std::size_t position) const {
  const fs::path path = part_path(position);
  if (!fs::is_regular_file(path)) return {};
  const PairRecipe& recipe = manifest_.recipe;
  const PairShard& shard = manifest_.shards.at(position);
  try {
    const SafetensorsReader reader(path);
    if (reader.metadata() != shard_texts(recipe, shard)) return {};
    Part part;
    part.images = read_tensor(reader, "images");
    const int64_t rows = part.images.size(0);
    bool fits = rows > 0 && rows <= shard.count &&
                part.images.scalar_type() == scalar_type(recipe.images) &&
                part.images.sizes().slice(1) == at::IntArrayRef(recipe.sample_shape);
    if (recipe.class_count > 0) {
      part.classes = read_tensor(reader, "classes");
      fits = fits && part.classes.size(0) == rows;
    }
    if (recipe.stored_noise) {
      part.noise = read_tensor(reader, "noise");
      fits = fits && part.noise.sizes() == part.images.sizes();
    }
    return fits ? part : Part{};
  } catch (const DataError&) {
    return {};  // a shard made from its start is never wrong
  }
}

PairManifest merge_pairs(const fs::path& dest, const std::vector<fs::path>& sources) {
  FM_CHECK_USAGE(!sources.empty(), "merge: give the folders to join");
  struct Source {
    fs::path folder;
    PairStore store;
  };
  std::vector<Source> parts;
  for (const fs::path& folder : sources) {
    std::error_code error;
    FM_CHECK_USAGE(!fs::equivalent(folder, dest, error), "--dest: ", dest.string(),
                   " is one of the folders to join; give a new one");
    parts.push_back({folder, PairStore(folder)});
    const std::string difference =
        recipe_difference(parts.front().store.recipe(), parts.back().store.recipe());
    FM_CHECK_USAGE(difference.empty(), "merge: ", sources.front().string(), " and ",
                   folder.string(), " were made in different ways: ", difference);
  }
  struct Piece {
    PairShard shard;
    std::size_t part;
    int64_t first_row;
  };
  std::vector<Piece> pieces;
  for (std::size_t p = 0; p < parts.size(); ++p) {
    int64_t row = 0;
    for (const PairShard& shard : parts[p].store.manifest().shards) {
      pieces.push_back({shard, p, row});
      row += shard.count;
    }
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) {
    return a.shard.first_seed < b.shard.first_seed;
  });
  std::vector<SeedRange> ranges;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const PairShard& shard = pieces[i].shard;
    const auto after = [](const PairShard& s) {
      return s.first_seed + static_cast<std::uint64_t>(s.count);
    };
    FM_CHECK_USAGE(i == 0 || after(pieces[i - 1].shard) <= shard.first_seed, "merge: seed ",
                   shard.first_seed, " is in ", parts[pieces[i - 1].part].folder.string(),
                   " and in ", parts[pieces[i].part].folder.string());
    ranges.push_back({shard.first_seed, shard.count});
  }
  PairManifest wanted = parts.front().store.manifest();
  PairWriter writer(dest, wanted, ranges);
  for (const std::size_t position : writer.missing()) {
    const PairShard shard = writer.manifest().shards[position];
    std::vector<at::Tensor> images, classes, noise;
    for (const Piece& piece : pieces) {
      const auto begin = std::max(shard.first_seed, piece.shard.first_seed);
      const auto end =
          std::min(shard.first_seed + static_cast<std::uint64_t>(shard.count),
                   piece.shard.first_seed + static_cast<std::uint64_t>(piece.shard.count));
      if (begin >= end) continue;
      const auto first =
          piece.first_row + static_cast<int64_t>(begin - piece.shard.first_seed);
      const at::Tensor rows =
          at::arange(first, first + static_cast<int64_t>(end - begin), at::kLong);
      const PairStore& store = parts[piece.part].store;
      images.push_back(store.images(rows));
      if (store.has_classes()) classes.push_back(store.classes(rows));
      if (store.recipe().stored_noise) noise.push_back(store.noise(rows));
    }
    writer.write(position, at::cat(images), classes.empty() ? at::Tensor() : at::cat(classes),
                 noise.empty() ? at::Tensor() : at::cat(noise));
  }
  return writer.manifest();
}

}  // namespace flowmap
