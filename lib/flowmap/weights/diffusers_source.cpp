// A folder as diffusers writes it: config.json beside one file of weights, or shards.
#include <array>
#include <nlohmann/json.hpp>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/weights/json_spec.h"
#include "flowmap/weights/source.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

nlohmann::json json_file(const fs::path& path) {
  return nlohmann::json::parse(checked_json_object(read_file(path), path.string()));
}

}  // namespace

WeightSource open_diffusers_folder(const fs::path& folder) {
  auto config = json_file(folder / "config.json");
  // The diffusion it learned stands in a file of the pipeline.
  for (const fs::path& path : {folder / "scheduler_config.json",
                               folder / ".." / "scheduler" / "scheduler_config.json"}) {
    if (!fs::exists(path)) continue;
    config["_scheduler"] = json_file(path);
    break;
  }
  constexpr std::array<const char*, 6> kWeights = {
      "diffusion_pytorch_model.safetensors",
      "diffusion_pytorch_model.safetensors.index.json",
      "model.safetensors",
      "model.safetensors.index.json",
      "diffusion_pytorch_model.bin",
      "pytorch_model.bin"};
  for (const char* name : kWeights) {
    if (!fs::exists(folder / name)) continue;
    WeightSource source = open_weights(folder / name);
    source.path = folder;
    source.format = "diffusers";
    source.config_json = config.dump();
    return source;
  }
  throw DataError(folder.string(), {}, "diffusion_pytorch_model.safetensors beside config.json",
                  "none (nor shards of it, nor .bin)");
}

}  // namespace flowmap
