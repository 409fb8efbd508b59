// torch.save files, and the pickles of EDM and its descendants.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/base/torch_file.h"
#include "flowmap/tensor_io.h"
#include "flowmap/weights/source.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

using nlohmann::json;

// Where programs keep the network worth having, averages first: EDM and SiD "ema",
// "G_ema"; torchcfm "ema_model"; FastGen {"model": {"net", "ema"}}; Lightning "state_dict".
constexpr std::array<std::string_view, 14> kPreferredKeys = {
    "ema",  "G_ema", "ema_model", "model_ema", "net_ema", "ema_state_dict", "generator",
    "G",    "net",   "net_model", "model",     "student", "state_dict",     "params"};

// A view of the mapped file where its elements lie in a row and aligned.
at::Tensor torch_tensor_as_at(const TorchTensor& tensor) {
  if (tensor.dtype == DType::BOOL || !tensor.contiguous() || tensor.numel() == 0)
    return to_tensor(tensor.read());
  const std::span<const std::byte> bytes = tensor.bytes();
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % dtype_size(tensor.dtype) != 0)
    return to_tensor(tensor.read());
  void* data = const_cast<std::byte*>(bytes.data());
  const auto storage = tensor.storage;
  return at::from_blob(data, tensor.shape, [storage](void*) {},
                       at::TensorOptions().dtype(scalar_type(tensor.dtype)));
}

// A module, or a mapping with a tensor in it.
bool is_network(const PickleValue& value) {
  if (pickled_module_state(value)) return true;
  if (!value.is_mapping()) return false;
  return std::any_of(value.items().begin(), value.items().end(), [](const PickleItem& i) {
    return TorchFile::is_tensor(*i.value);
  });
}

// The keys of a mapping below which networks may be.
std::vector<std::string> mapping_keys(const PickleValue& value) {
  std::vector<std::string> keys;
  if (!value.is_mapping()) return keys;
  for (const PickleItem& item : value.items())
    if (item.key->is(PickleKind::text) &&
        (item.value->is_mapping() || pickled_module_state(*item.value)))
      keys.emplace_back(item.key->as_text("key"));
  return keys;
}

// Walks down the preferred keys to a network. Nothing preferred: the only one there is.
std::string preferred_key(const PickleValue& root, std::vector<std::string>& others) {
  std::string path;
  const PickleValue* value = &root;
  for (int depth = 0; depth < 8 && !is_network(*value); ++depth) {
    const std::vector<std::string> keys = mapping_keys(*value);
    std::string chosen;
    for (const std::string_view name : kPreferredKeys)
      if (chosen.empty() && std::find(keys.begin(), keys.end(), name) != keys.end())
        chosen = name;
    if (chosen.empty() && keys.size() == 1) chosen = keys.front();
    if (chosen.empty()) return path;
    for (const std::string& key : keys)
      if (key != chosen) others.push_back(path.empty() ? key : path + "." + key);
    path += path.empty() ? chosen : "." + chosen;
    value = value->find(chosen);
  }
  return path;
}

// Plain data only; what else there is becomes null.
json json_of_pickle(const PickleValue& value, int depth = 0) {
  if (depth > 16) return nullptr;
  switch (value.kind()) {
    case PickleKind::boolean: return value.as_bool("value");
    case PickleKind::integer: return value.as_int("value");
    case PickleKind::real: return value.as_double("value");
    case PickleKind::text: return std::string(value.as_text("value"));
    case PickleKind::list:
    case PickleKind::tuple: {
      json list = json::array();
      for (const PickleValue* element : value.elements())
        list.push_back(json_of_pickle(*element, depth + 1));
      return list;
    }
    default: break;
  }
  if (const auto number = pickled_numpy_number(value)) return *number;
  if (!value.is_mapping()) return nullptr;
  json object = json::object();
  for (const PickleItem& item : value.items())
    if (item.key->is(PickleKind::text))
      object[std::string(item.key->as_text("key"))] = json_of_pickle(*item.value, depth + 1);
  return object;
}

// {"class", "kwargs"} of EDM's persistent objects, or "".
std::string constructor_of(const PickleValue& value) {
  if (!value.is_object_of("torch_utils.persistence", "_reconstruct_persistent_obj"))
    return "";
  const PickleValue& meta = value.arg(0, "the description of a persistent object");
  const PickleValue* state = pickled_module_state(value);
  json config = {{"class", std::string(meta.at("class_name", "a class").as_text("a class"))},
                 {"kwargs", json::object()}};
  if (const PickleValue* kwargs = state ? state->find("_init_kwargs") : nullptr)
    config["kwargs"] = json_of_pickle(*kwargs);
  return config.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

WeightSource open_torch_or_pickle(const fs::path& path, const std::string& key) {
  const TorchFile file(path);
  WeightSource source;
  source.path = path;
  source.format = file.format() == TorchFileFormat::pickle ? "pickle" : "torch.save";
  source.key = key;
  if (key.empty() && !file.cyclic())
    source.key = preferred_key(file.root(), source.other_keys);
  for (const TorchEntry& entry :
       file.flatten({.key = source.key, .strip_prefixes = true}))
    source.tensors.emplace(entry.name, torch_tensor_as_at(entry.tensor));
  if (source.tensors.empty())
    throw DataError(path.string(), {}, "tensors",
                    "none under " + (source.key.empty() ? "the top" : "'" + source.key + "'"));
  source.config_json =
      constructor_of(source.key.empty() ? file.root() : file.at(source.key));
  return source;
}

}  // namespace flowmap
