#include "flowmap/pairs/pair_store.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/draw.h"
#include "flowmap/tensor_io.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

void check_entry(const SafetensorsReader& shard, const char* name, DType dtype,
                 std::vector<int64_t> shape) {
  const SafetensorsEntry* entry = shard.find(name);
  const auto text = [](DType type, const std::vector<int64_t>& sizes) {
    return std::string(dtype_name(type)) + " " + shape_text(sizes);
  };
  if (!entry || entry->dtype != dtype || entry->shape != shape)
    throw DataError(shard.path(), {}, std::string("'") + name + "' " + text(dtype, shape),
                    entry ? text(entry->dtype, entry->shape) : "none");
}

}  // namespace

PairStore::PairStore(const fs::path& folder, bool checksums)
    : folder_(folder), manifest_(read_pair_manifest(folder)), starts_{0} {
  const std::vector<std::string> faults = shard_faults(folder, manifest_, checksums);
  for (std::size_t i = 0; i < faults.size(); ++i)
    if (!faults[i].empty())
      throw DataError((folder / manifest_.shards[i].file).string(), {}, "a whole shard",
                      "one that " + faults[i] + "; make it again with: " +
                          manifest_.remedy(folder));
  const PairRecipe& recipe = manifest_.recipe;
  for (const PairShard& shard : manifest_.shards) {
    const SafetensorsReader& reader = readers_.emplace_back(folder / shard.file);
    std::vector<int64_t> shape{shard.count};
    shape.insert(shape.end(), recipe.sample_shape.begin(), recipe.sample_shape.end());
    check_entry(reader, "images", recipe.images, shape);
    if (recipe.stored_noise) check_entry(reader, "noise", DType::F32, shape);
    if (has_classes()) check_entry(reader, "classes", DType::I64, {shard.count});
    starts_.push_back(starts_.back() + shard.count);
  }
}

std::pair<std::size_t, int64_t> PairStore::place(int64_t row) const {
  FM_CHECK(row >= 0 && row < count(), folder_.string(), ": pair ", row, " of ", count());
  const auto after = std::upper_bound(starts_.begin(), starts_.end(), row);
  const auto shard = static_cast<std::size_t>(after - starts_.begin()) - 1;
  return {shard, row - starts_[shard]};
}

std::vector<std::uint64_t> PairStore::seeds(const at::Tensor& index) const {
  std::vector<std::uint64_t> seeds;
  const auto rows = index.accessor<int64_t, 1>();
  for (int64_t i = 0; i < index.numel(); ++i) {
    const auto [shard, row] = place(rows[i]);
    seeds.push_back(manifest_.shards[shard].first_seed + static_cast<std::uint64_t>(row));
  }
  return seeds;
}

at::Tensor PairStore::gather(const char* name, const at::Tensor& index, at::ScalarType type,
                             at::IntArrayRef row_shape) const {
  std::vector<int64_t> shape{index.numel()};
  shape.insert(shape.end(), row_shape.begin(), row_shape.end());
  const at::Tensor rows = at::empty(shape, at::TensorOptions().dtype(type));
  if (rows.numel() == 0) return rows;
  const std::size_t size = rows.nbytes() / static_cast<std::size_t>(index.numel());
  auto* to = static_cast<std::byte*>(rows.mutable_data_ptr());
  const auto from = index.accessor<int64_t, 1>();
  for (int64_t i = 0; i < index.numel(); ++i) {
    const auto [shard, row] = place(from[i]);
    const SafetensorsReader& reader = readers_[shard];
    const auto bytes = reader.data(*reader.find(name));
    std::memcpy(to + static_cast<std::size_t>(i) * size,
                bytes.data() + static_cast<std::size_t>(row) * size, size);
  }
  return rows;
}

at::Tensor PairStore::images(const at::Tensor& index) const {
  const at::ScalarType stored = scalar_type(recipe().images);
  const at::Tensor rows = gather("images", index, stored, recipe().sample_shape);
  return stored == at::kByte ? rows : rows.to(at::kFloat);
}

at::Tensor PairStore::classes(const at::Tensor& index) const {
  if (!has_classes()) return {};
  return gather("classes", index, at::kLong, {});
}

at::Tensor PairStore::noise(const at::Tensor& index) const {
  if (recipe().stored_noise)
    return gather("noise", index, at::kFloat, recipe().sample_shape);
  return Draw::per_seed(seeds(index)).normal("latents", recipe().sample_shape);
}

}  // namespace flowmap
