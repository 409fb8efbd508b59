#include "flowmap/train/snapshot.h"

#include <ATen/ATen.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/base/text.h"
#include "flowmap/nn/init.h"
#include "flowmap/preconditioning.h"
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
  if (!tensor.is_floating_point()) return;
  // One pass without a temporary; only a sum that overflowed needs the exact one.
  if (std::isfinite(tensor.sum().item<double>())) return;
  if (tensor.isfinite().all().item<bool>()) return;
  const auto bad = tensor.isfinite().logical_not().sum().item<int64_t>();
  throw DataError(path, {}, "finite weights",
                  format("%lld of %lld values of '%s' are not finite",
                         static_cast<long long>(bad),
                         static_cast<long long>(tensor.numel()), name.c_str()));
}

// Buffers that the specification determines; files of other programs often lack them.
bool is_derived_buffer(const std::string& name) {
  return name.ends_with("resample_filter") || name.ends_with("pos_embed") || name == "u";
}

// Throws where the names and shapes of `tensors` are not those of `state`.
void check_same_tensors(const std::string& path, const TensorMap& tensors,
                        const std::map<std::string, at::Tensor>& state) {
  std::vector<std::string> missing, unexpected, misshaped;
  for (const auto& [name, tensor] : state) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      if (!is_derived_buffer(name)) missing.push_back(name);
    } else if (found->second.sizes() != tensor.sizes()) {
      misshaped.push_back(name + " (file " + shape_text(found->second.sizes()) +
                          ", model " + shape_text(tensor.sizes()) + ")");
    }
  }
  for (const auto& [name, tensor] : tensors)
    if (!state.contains(name)) unexpected.push_back(name);
  if (missing.empty() && unexpected.empty() && misshaped.empty()) return;
  std::string got;
  const auto add = [&](const char* what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    if (!got.empty()) got += "; ";
    got += std::to_string(names.size()) + " " + what + ": " + shortened_list(names);
  };
  add("missing", missing);
  add("unexpected", unexpected);
  add("of another shape", misshaped);
  throw DataError(path, {}, "the tensors of this architecture", got);
}

// Copies what fits under the model's names.
LoadReport copy_fitting(const std::string& path, const TensorMap& tensors, Model& model) {
  const at::NoGradGuard no_grad;
  const auto parameters = model.named_parameters();
  LoadReport report;
  report.in_file = static_cast<int64_t>(tensors.size());
  report.parameters = static_cast<int64_t>(parameters.size());
  for (auto& [name, target] : state_of(model)) {
    ++report.in_model;
    const auto found = tensors.find(name);
    if (found == tensors.end() || found->second.sizes() != target.sizes()) continue;
    check_finite_weight(path, name, found->second);
    at::Tensor(target).copy_(found->second);
    ++report.copied;
    if (parameters.contains(name)) ++report.parameters_copied;
  }
  return report;
}

}  // namespace

MethodDefaults method_defaults(const std::string& info, const std::string& where) {
  MethodDefaults defaults;
  if (info.empty()) return defaults;
  const auto root = nlohmann::json::parse(info, nullptr, false);
  if (!root.is_object())
    throw DataError(where, {}, "metadata 'method': a JSON object",
                    "'" + info.substr(0, 60) + "'");
  if (const auto name = root.find("default_sampler");
      name != root.end() && name->is_string())
    defaults.sampler = name->get<std::string>();
  if (const auto steps = root.find("default_steps");
      steps != root.end() && steps->is_number_integer())
    defaults.steps = steps->get<int64_t>();
  const auto number = [&](const char* key, const nlohmann::json& value) {
    if (!value.is_number())
      throw DataError(where, {}, std::string("metadata 'method': numbers in ") + key,
                      value.dump(-1, ' ', true).substr(0, 60));
    return value.get<double>();
  };
  if (const auto times = root.find("default_times"); times != root.end()) {
    if (!times->is_array())
      throw DataError(where, {}, "metadata 'method': a list in default_times",
                      times->type_name());
    for (const auto& time : *times)
      defaults.times.push_back(number("default_times", time));
  }
  if (const auto scale = root.find("default_guidance"); scale != root.end())
    defaults.guidance = number("default_guidance", *scale);
  return defaults;
}

std::map<std::string, std::string> snapshot_metadata(
    const std::string& spec_json, std::map<std::string, std::string> metadata) {
  metadata["format"] = "pt";
  metadata["flowmap"] = kSnapshotVersion;
  metadata["spec"] = spec_json;
  return metadata;
}

void save_snapshot(const std::filesystem::path& path, const Model& model,
                   const std::string& spec_json,
                   const std::map<std::string, std::string>& metadata) {
  save_tensors(path, state_of(model), snapshot_metadata(spec_json, metadata));
}

namespace {

// Every handle of `tensor`, which has shapes only, becomes `value`. Tensor::set_data would
// refuse to leave the meta device.
void become(const at::Tensor& tensor, const at::Tensor& value) {
  tensor.unsafeGetTensorImpl()->shallow_copy_from(value.getIntrusivePtr());
}

}  // namespace

std::shared_ptr<Model> model_of_weights(const std::string& spec_json,
                                        const TensorMap& tensors,
                                        const std::filesystem::path& path) {
  const Config spec = Config::from_text(spec_json, path.string() + ":spec");
  std::shared_ptr<Model> model;
  {
    const ShapesOnly shapes;  // no memory is filled only to be replaced
    model = build_model(spec);
  }
  spec.check_all_read();
  const at::NoGradGuard no_grad;
  const std::map<std::string, at::Tensor> state = state_of(*model);
  check_same_tensors(path.string(), tensors, state);
  for (const auto& [name, tensor] : state) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) continue;
    check_finite_weight(path.string(), name, found->second);
    become(tensor, found->second.to(tensor.scalar_type()).contiguous());
  }
  model->eval();
  for (at::Tensor& parameter : model->parameters()) parameter.set_requires_grad(false);
  return model;
}

Snapshot load_snapshot(const std::filesystem::path& path, const LoadOptions& options) {
  const WeightSource source = open_weights(path, options.key);
  if (const auto version = source.metadata.find("flowmap");
      version != source.metadata.end() && version->second != kSnapshotVersion)
    throw DataError(path.string(), {}, std::string("snapshot format ") + kSnapshotVersion,
                    "format '" + version->second + "'; a newer flowmap may read it");
  const ImportedWeights imported = import_weights(source, options.hints);
  Snapshot snapshot;
  snapshot.metadata = imported.metadata;
  snapshot.spec_json = imported.spec_json;
  snapshot.layout = imported.layout;
  snapshot.assumed = imported.assumed;
  snapshot.model = model_of_weights(imported.spec_json, imported.tensors, path);
  if (const auto method = snapshot.metadata.find("method");
      method != snapshot.metadata.end())
    snapshot.defaults = method_defaults(method->second, path.string());
  return snapshot;
}

int64_t load_weights(const std::filesystem::path& path, Model& model, bool partial,
                     const LoadOptions& options, LoadReport* report) {
  const ImportedWeights imported =
      import_weights(open_weights(path, options.key), options.hints);
  if (!partial) check_same_tensors(path.string(), imported.tensors, state_of(model));
  LoadReport done = copy_fitting(path.string(), imported.tensors, model);
  done.spec_json = imported.spec_json;
  if (report) *report = done;
  return done.copied;
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
