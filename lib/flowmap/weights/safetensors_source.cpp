// Safetensors, one file or shards with an index.
#include <ATen/ATen.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/tensor_io.h"
#include "flowmap/weights/source.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

void add_shard(WeightSource& source, const fs::path& path) {
  const auto reader = std::make_shared<SafetensorsReader>(path);
  for (const auto& [key, text] : reader->metadata()) source.metadata.emplace(key, text);
  for (const SafetensorsEntry& entry : reader->entries()) {
    const bool added = source.tensors.emplace(entry.name, mapped_tensor(reader, entry)).second;
    if (!added)
      throw DataError(path.string(), {}, "each tensor in one shard",
                      "'" + entry.name + "' again");
  }
}

// {"weight_map": {"tensor": "file in the same folder"}}
void add_indexed(WeightSource& source, const fs::path& index) {
  const auto root = nlohmann::json::parse(read_file(index), nullptr, false);
  if (!root.is_object() || !root.contains("weight_map") || !root["weight_map"].is_object())
    throw DataError(index.string(), {}, "an index of shards (JSON with weight_map)",
                    "something else");
  std::set<std::string> shards;
  for (const auto& [name, shard] : root["weight_map"].items()) {
    if (!shard.is_string())
      throw DataError(index.string(), {}, "the file of '" + name + "'", shard.dump());
    const std::string file = shard.get<std::string>();
    if (file.find('/') != std::string::npos || file.empty() || file[0] == '.')
      throw DataError(index.string(), {}, "files beside the index", "'" + file + "'");
    shards.insert(file);
  }
  for (const std::string& shard : shards) add_shard(source, index.parent_path() / shard);
  for (const auto& [name, shard] : root["weight_map"].items())
    if (!source.tensors.contains(name))
      throw DataError((index.parent_path() / shard.get<std::string>()).string(), {},
                      "the tensor '" + name + "' that the index promises", "none");
}

}  // namespace

WeightSource open_safetensors(const fs::path& path) {
  WeightSource source;
  source.path = path;
  source.format = "safetensors";
  if (path.extension() == ".json")
    add_indexed(source, path);
  else
    add_shard(source, path);
  return source;
}

}  // namespace flowmap
