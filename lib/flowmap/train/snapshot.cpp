#include "flowmap/train/snapshot.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/safetensors.h"
#include "flowmap/base/text.h"
#include "flowmap/tensor_io.h"

namespace flowmap {
namespace {

constexpr const char* kSnapshotVersion = "1";

// Parameters and buffers by name, as the state dict has them.
std::map<std::string, at::Tensor> state_of(const Model& model) {
  std::map<std::string, at::Tensor> state;
  for (const auto& item : model.named_parameters()) state[item.key()] = item.value();
  for (const auto& item : model.named_buffers()) state[item.key()] = item.value();
  return state;
}

// "a, b, c and 12 more"
std::string shortened_list(const std::vector<std::string>& names) {
  constexpr std::size_t kShown = 5;
  const std::vector<std::string> shown(
      names.begin(), names.begin() + std::min(names.size(), kShown));
  std::string text = join(shown, ", ");
  if (names.size() > kShown) text += format(" and %zu more", names.size() - kShown);
  return text;
}

void check_finite_weight(const std::string& path, const std::string& name,
                         const at::Tensor& tensor) {
  if (!tensor.is_floating_point() || tensor.isfinite().all().item<bool>()) return;
  const auto bad = tensor.isfinite().logical_not().sum().item<int64_t>();
  throw DataError(path, {}, "finite weights",
                  format("%lld of %lld values of '%s' are not finite",
                         static_cast<long long>(bad),
                         static_cast<long long>(tensor.numel()), name.c_str()));
}

// Copies what the file holds under the model's names. Returns the number copied.
int64_t copy_from_file(const SafetensorsReader& reader, Model& model, bool partial) {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> state = state_of(model);
  std::vector<std::string> missing, unexpected, misshaped;
  for (const auto& [name, tensor] : state) {
    const SafetensorsEntry* entry = reader.find(name);
    if (!entry) {
      missing.push_back(name);
    } else if (at::IntArrayRef(entry->shape) != tensor.sizes()) {
      misshaped.push_back(name + " (file " + shape_text(entry->shape) + ", model " +
                          shape_text(tensor.sizes()) + ")");
    }
  }
  for (const SafetensorsEntry& entry : reader.entries())
    if (!state.count(entry.name)) unexpected.push_back(entry.name);
  if (!partial && !(missing.empty() && unexpected.empty() && misshaped.empty())) {
    std::string got;
    const auto add = [&](const char* what, const std::vector<std::string>& names) {
      if (names.empty()) return;
      if (!got.empty()) got += "; ";
      got += std::to_string(names.size()) + " " + what + ": " + shortened_list(names);
    };
    add("missing", missing);
    add("unexpected", unexpected);
    add("of another shape", misshaped);
    throw DataError(reader.path(), {}, "the tensors of this architecture", got);
  }
  int64_t copied = 0;
  for (auto& [name, tensor] : state) {
    const SafetensorsEntry* entry = reader.find(name);
    if (!entry || at::IntArrayRef(entry->shape) != tensor.sizes()) continue;
    const at::Tensor value = read_tensor(reader, name);
    check_finite_weight(reader.path(), name, value);
    tensor.copy_(value);
    ++copied;
  }
  return copied;
}

void read_method_defaults(const std::string& path, Snapshot& snapshot) {
  const auto found = snapshot.metadata.find("method");
  if (found == snapshot.metadata.end() || found->second.empty()) return;
  const auto root = nlohmann::json::parse(found->second, nullptr, false);
  if (!root.is_object())
    throw DataError(path, {}, "metadata 'method': a JSON object",
                    "'" + found->second.substr(0, 60) + "'");
  if (const auto name = root.find("default_sampler");
      name != root.end() && name->is_string())
    snapshot.default_sampler = name->get<std::string>();
  if (const auto steps = root.find("default_steps");
      steps != root.end() && steps->is_number_integer())
    snapshot.default_steps = steps->get<int64_t>();
}

}  // namespace

void save_snapshot(const std::filesystem::path& path, const Model& model,
                   const std::string& spec_json,
                   const std::map<std::string, std::string>& metadata) {
  std::map<std::string, std::string> texts = metadata;
  texts["format"] = "pt";
  texts["flowmap"] = kSnapshotVersion;
  texts["spec"] = spec_json;
  save_tensors(path, state_of(model), texts);
}

Snapshot load_snapshot(const std::filesystem::path& path) {
  const SafetensorsReader reader(path);
  Snapshot snapshot;
  snapshot.metadata = reader.metadata();
  const auto text = [&](const char* key) -> const std::string& {
    const auto found = snapshot.metadata.find(key);
    if (found == snapshot.metadata.end())
      throw DataError(path.string(), {},
                      std::string("a flowmap snapshot (metadata '") + key + "')",
                      "a safetensors file without it");
    return found->second;
  };
  if (text("flowmap") != kSnapshotVersion)
    throw DataError(path.string(), {},
                    std::string("snapshot format ") + kSnapshotVersion,
                    "format '" + text("flowmap") + "'; a newer flowmap may read it");
  snapshot.spec_json = text("spec");
  const Config spec = Config::from_text(snapshot.spec_json, path.string() + ":spec");
  snapshot.model = make_model(spec, 0);
  copy_from_file(reader, *snapshot.model, false);
  snapshot.model->eval();
  for (at::Tensor& parameter : snapshot.model->parameters())
    parameter.set_requires_grad(false);
  read_method_defaults(path.string(), snapshot);
  return snapshot;
}

int64_t load_weights(const std::filesystem::path& path, Model& model, bool partial) {
  return copy_from_file(SafetensorsReader(path), model, partial);
}

void record_score(const std::filesystem::path& path, const std::string& name,
                  double value, int64_t num_images, const std::string& how) {
  const SafetensorsReader reader(path);
  std::map<std::string, std::string> metadata = reader.metadata();
  if (!metadata.contains("flowmap") || !metadata.contains("spec"))
    throw DataError(path.string(), {}, "a snapshot of this program",
                    "a file without its metadata");
  auto scores = nlohmann::json::parse(metadata["scores"], nullptr, false);
  if (!scores.is_object()) scores = nlohmann::json::object();
  scores[how.empty() ? name : name + " " + how] = {{"value", value},
                                                   {"num_images", num_images}};
  metadata["scores"] = scores.dump();
  std::vector<SafetensorsItem> items;
  for (const SafetensorsEntry& entry : reader.entries())
    items.push_back({entry.name, entry.dtype, entry.shape, reader.data(entry)});
  write_safetensors(path, std::move(items), metadata);
}

}  // namespace flowmap
