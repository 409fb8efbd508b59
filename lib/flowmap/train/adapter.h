// The files of low-rank adapters (nn/lora.h): what a run changed, without the network that
// it changed.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "flowmap/nn/lora.h"
#include "flowmap/train/snapshot.h"

namespace flowmap {

// safetensors: the factors "LAYER.lora_A", "LAYER.lora_B" as float32; metadata "format" =
// "pt", "flowmap_adapter" = "1", "base" = model_checksum of the network that it was made
// for, "rank", "alpha", and `metadata` (a snapshot's: "method", "ema", ...). Atomic.
void save_adapter(const std::filesystem::path& path, const Lora& lora,
                  const std::vector<NamedTensor>& factors,
                  std::map<std::string, std::string> metadata);

// Merges an adapter into the weights of a snapshot, on the CPU, in float32; the adapter's
// metadata ("method", "images_seen", ...) replace the snapshot's. Throws DataError where the
// file is no adapter, is cut, or names layers that the network lacks; UsageError, naming
// both checksums, where the network is not the one it was made for, unless `force`.
// Returns the names of the weights that changed.
std::vector<std::string> merge_adapter(const std::filesystem::path& path, Snapshot& snapshot,
                                       bool force);

}  // namespace flowmap
