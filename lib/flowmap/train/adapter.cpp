#include "flowmap/train/adapter.h"

#include <ATen/ATen.h>

#include "flowmap/base/config.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/model_checksum.h"
#include "flowmap/tensor_io.h"

namespace flowmap {
namespace {

constexpr const char* kAdapterKey = "flowmap_adapter";
constexpr const char* kAdapterVersion = "1";

// The metadata of an adapter: one of the keys that must be there.
std::string adapter_entry(const std::filesystem::path& path,
                          const std::map<std::string, std::string>& metadata,
                          const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end())
    throw DataError(path.string(), {}, "metadata '" + key + "' of an adapter", "none");
  return found->second;
}

void refuse_other_base(const std::filesystem::path& path, const std::string& wanted,
                       const Model& model) {
  const std::string checksum = model_checksum(model);
  FM_CHECK_USAGE(wanted == checksum, path.string(), ": made for another network (checksum ",
                 wanted.substr(0, 12), "...; this one has ", checksum.substr(0, 12),
                 "...); take the network that the run started from, or pass --force");
}

}  // namespace

void save_adapter(const std::filesystem::path& path, const Lora& lora,
                  const std::vector<NamedTensor>& factors,
                  std::map<std::string, std::string> metadata) {
  metadata["format"] = "pt";
  metadata[kAdapterKey] = kAdapterVersion;
  metadata["base"] = lora.base_checksum();
  metadata["rank"] = std::to_string(lora.options().rank);
  metadata["alpha"] = format("%.17g", lora.options().alpha);
  TensorMap tensors;
  for (const NamedTensor& factor : factors) tensors[factor.name] = factor.tensor.detach();
  save_tensors(path, tensors, metadata);
}

std::vector<std::string> merge_adapter(const std::filesystem::path& path,
                                       Snapshot& snapshot, bool force) {
  std::map<std::string, std::string> metadata = SafetensorsReader(path).metadata();
  const std::string version =
      metadata.contains(kAdapterKey) ? metadata[kAdapterKey] : std::string();
  if (version != kAdapterVersion)
    throw DataError(path.string(), {}, "an adapter (adapter-snapshot-*.safetensors of a run "
                    "with \"lora\")",
                    version.empty() ? "a file without its metadata" : "format " + version);
  if (!force)
    refuse_other_base(path, adapter_entry(path, metadata, "base"), *snapshot.model);
  const double scale = parse_double(adapter_entry(path, metadata, "alpha"), "alpha") /
                       parse_double(adapter_entry(path, metadata, "rank"), "rank");
  const TensorMap factors = load_tensors(path);
  const at::NoGradGuard no_grad;
  auto parameters = snapshot.model->named_parameters();
  const std::string first = ".lora_A", second = ".lora_B";
  std::vector<std::string> merged;
  for (const auto& [name, a] : factors) {
    if (!name.ends_with(first)) continue;
    const std::string layer = name.substr(0, name.size() - first.size());
    const auto b = factors.find(layer + second);
    if (b == factors.end())
      throw DataError(path.string(), {}, "a tensor " + layer + second, "none");
    at::Tensor* weight = parameters.find(layer + ".weight");
    if (!weight || a.dim() != 2 || b->second.dim() != 2 ||
        b->second.size(1) != a.size(0) || b->second.size(0) != weight->size(0) ||
        a.size(1) * weight->size(0) != weight->numel())
      throw DataError(path.string(), {}, "factors of the layers of this network",
                      layer + (weight ? " of another shape" : ", which it lacks"));
    if (!a.isfinite().all().item<bool>() || !b->second.isfinite().all().item<bool>())
      throw DataError(path.string(), {}, "finite factors", layer + ": others");
    weight->copy_(merged_weight(*weight, a, b->second, scale));
    merged.push_back(layer + ".weight");
  }
  if (merged.empty() || 2 * merged.size() != factors.size())
    throw DataError(path.string(), {}, "pairs of lora_A and lora_B",
                    format("%zu tensors, %zu pairs", factors.size(), merged.size()));
  for (const char* key : {"method", "ema", "images_seen", "dataset"})
    if (metadata.contains(key)) snapshot.metadata[key] = metadata[key];
  snapshot.metadata.erase("scores");  // the base's
  if (!metadata.contains("method")) return merged;
  snapshot.defaults = method_defaults(metadata["method"], path.string());
  return merged;
}

}  // namespace flowmap
