// torch.save files, and the pickles of EDM and its descendants.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/torch_file.h"
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

// A view of the mapped file where its elements lie in a row.
at::Tensor torch_tensor_as_at(const TorchTensor& tensor) {
  if (tensor.dtype == DType::BOOL || !tensor.contiguous()) return to_tensor(tensor.read());
  return tensor_on(tensor.bytes(), tensor.shape, tensor.dtype, tensor.storage);
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

// score_sde's averages {decay, num_updates, shadow_params: [tensors]}, which stand beside
// the network ("model") whose parameters' names they lack.
const PickleValue* shadow_params(const PickleValue& value) {
  const PickleValue* shadows = value.is_mapping() ? value.find("shadow_params") : nullptr;
  return shadows && !shadows->elements().empty() ? shadows : nullptr;
}

const PickleValue* averaged_network(const PickleValue& parent) {
  const PickleValue* model = parent.is_mapping() ? parent.find("model") : nullptr;
  return model && is_network(*model) ? model : nullptr;
}

struct ChosenNetwork {
  const PickleValue* value = nullptr;
  const PickleValue* parent = nullptr;  // nullptr of the root
  std::string key;
};

// Of a file whose values do not contain themselves.
class PreferredNetwork {
 public:
  // Walks down the preferred keys that lead to a network. Nothing preferred: the only one
  // there is. A tensor beside them ("step") makes no network of what holds them.
  ChosenNetwork find(const PickleValue& root, std::vector<std::string>& others) {
    ChosenNetwork chosen{&root, nullptr, ""};
    for (int depth = 0; depth < 8; ++depth) {
      const PickleValue& value = *chosen.value;
      if (pickled_module_state(value)) break;
      const std::vector<std::string> keys = mapping_keys(value);
      std::string next;
      for (const std::string_view name : kPreferredKeys)
        if (next.empty() && leads_to_network(value, name)) next = name;
      if (next.empty() && keys.size() == 1 && !is_network(value)) next = keys.front();
      if (next.empty()) break;
      const std::string before = chosen.key.empty() ? "" : chosen.key + ".";
      for (const std::string& key : keys)
        if (key != next) others.push_back(before + key);
      chosen = {value.find(next), &value, before + next};
    }
    return chosen;
  }

 private:
  bool leads_to_network(const PickleValue& value, std::string_view key) {
    const PickleValue* child = value.is_mapping() ? value.find(key) : nullptr;
    if (!child) return false;
    return shadow_params(*child) ? averaged_network(value) != nullptr : holds(*child);
  }

  // Each value once: values may be shared without end.
  bool holds(const PickleValue& value) {
    if (const auto known = holds_.find(&value); known != holds_.end()) return known->second;
    bool found = is_network(value);
    if (value.is_mapping())
      for (const PickleItem& item : value.items())
        found = found || (item.key->is(PickleKind::text) && holds(*item.value));
    return holds_[&value] = found;
  }

  std::unordered_map<const PickleValue*, bool> holds_;
};

// The keys of the networks of a file, for errors: as many as a line shows.
class NetworkKeys {
 public:
  std::vector<std::string> keys;

  void visit(const PickleValue& value, const std::string& key, int depth) {
    if (++visits_ > 1000 || depth > 4 || !value.is_mapping()) return;
    for (const PickleItem& item : value.items()) {
      if (!item.key->is(PickleKind::text)) continue;
      const std::string_view part = item.key->as_text("key");
      if (part.size() > 100 || keys.size() >= 20) continue;
      const std::string name = (key.empty() ? "" : key + ".") + std::string(part);
      if (is_network(*item.value) ||
          (shadow_params(*item.value) && averaged_network(value)))
        keys.push_back(name);
      visit(*item.value, name, depth + 1);
    }
  }

 private:
  int visits_ = 0;
};

[[noreturn]] void refuse_key(const TorchFile& file, const std::string& key) {
  NetworkKeys networks;
  networks.visit(file.root(), "", 0);
  std::string known = "one network at the top (leave --key away)";
  if (!networks.keys.empty()) known = "the networks " + join(networks.keys, ", ");
  const std::string near = nearest_name(key, networks.keys);
  throw UsageError("--key " + key + ": no network of " + file.path() + "; it holds " + known +
                   (near.empty() ? "" : "; did you mean '" + near + "'?"));
}

ChosenNetwork network_at(const TorchFile& file, const std::string& key) {
  ChosenNetwork chosen{file.find(key), nullptr, key};
  if (!chosen.value) refuse_key(file, key);
  const std::size_t dot = key.rfind('.');
  chosen.parent = file.find(dot == std::string::npos ? "" : key.substr(0, dot));
  return chosen;
}

// Which entries the averages are of, by their order and shapes: buffers and frozen
// parameters have none. Backwards takes the last that agree instead of the first.
std::vector<std::size_t> averaged_entries(const std::vector<TorchEntry>& entries,
                                          const std::vector<TorchTensor>& averages,
                                          bool backwards) {
  std::vector<std::size_t> found;
  for (std::size_t n = 0; n < entries.size() && found.size() < averages.size(); ++n) {
    const std::size_t at = backwards ? entries.size() - 1 - n : n;
    const std::size_t next = backwards ? averages.size() - 1 - found.size() : found.size();
    if (at::isFloatingType(scalar_type(entries[at].tensor.dtype)) &&
        entries[at].tensor.shape == averages[next].shape)
      found.push_back(at);
  }
  if (backwards) std::reverse(found.begin(), found.end());
  return found;
}

// Puts the averages in the place of the parameters they are of.
void take_averages(const TorchFile& file, const PickleValue& shadows,
                   std::vector<TorchEntry>& entries) {
  std::vector<TorchTensor> averages;
  for (const PickleValue* each : shadows.elements()) averages.push_back(file.tensor(*each));
  const auto first = averaged_entries(entries, averages, false);
  const auto last = averaged_entries(entries, averages, true);
  const auto refuse = [&](const std::string& got) {
    throw DataError(file.path(), shadows.offset(),
                    "averages (shadow_params) with the shapes of the parameters of 'model', "
                    "in their order (else take the weights themselves: --key model)",
                    got);
  };
  if (first.size() != averages.size())
    refuse(std::to_string(averages.size()) + " of which " + std::to_string(first.size()) +
           " fit the " + std::to_string(entries.size()) + " tensors");
  if (first != last) refuse("averages that fit in more than one way");
  for (std::size_t i = 0; i < first.size(); ++i) entries[first[i]].tensor = averages[i];
}

// Plain data only; what else there is becomes null. Values may be shared without end: what
// is made of them is bounded.
class PickleToJson {
 public:
  json convert(const PickleValue& value, int depth = 0) {
    spend(value, 1);
    if (depth > 16) return nullptr;
    switch (value.kind()) {
      case PickleKind::boolean: return value.as_bool("value");
      case PickleKind::integer: return value.as_int("value");
      case PickleKind::real: return value.as_double("value");
      case PickleKind::text: return text_of(value);
      case PickleKind::list:
      case PickleKind::tuple: {
        json list = json::array();
        for (const PickleValue* element : value.elements())
          list.push_back(convert(*element, depth + 1));
        return list;
      }
      default: break;
    }
    if (const auto number = pickled_numpy_number(value)) return *number;
    if (!value.is_mapping()) return nullptr;
    json object = json::object();
    for (const PickleItem& item : value.items()) {
      spend(value, 1);
      if (item.key->is(PickleKind::text))
        object[text_of(*item.key)] = convert(*item.value, depth + 1);
    }
    return object;
  }

 private:
  void spend(const PickleValue& value, std::size_t count) {
    constexpr std::size_t kMost = 10000;
    if ((spent_ += count) > kMost)
      value.refuse("_init_kwargs", "arguments of a class, at most 10000 values");
  }

  std::string text_of(const PickleValue& value) {
    const std::string_view text = value.as_text("value");
    spend(value, text.size() / 256);
    return std::string(text);
  }

  std::size_t spent_ = 0;
};

// {"class", "kwargs"} of EDM's persistent objects, or "".
std::string constructor_of(const PickleValue& value) {
  if (!value.is_object_of("torch_utils.persistence", "_reconstruct_persistent_obj"))
    return "";
  const PickleValue& meta = value.arg(0, "the description of a persistent object");
  const PickleValue* state = pickled_module_state(value);
  if (const PickleValue* args = state ? state->find("_init_args") : nullptr)
    if (const std::size_t count = args->elements().size())
      throw DataError(value.path(), args->offset(),
                      "a class made with named arguments only (_init_kwargs)",
                      std::to_string(count) +
                          " positional arguments (_init_args), whose names the file does "
                          "not tell");
  json config = {{"class", std::string(meta.at("class_name", "a class").as_text("a class"))},
                 {"kwargs", json::object()}};
  if (const PickleValue* kwargs = state ? state->find("_init_kwargs") : nullptr)
    config["kwargs"] = PickleToJson().convert(*kwargs);
  return config.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

WeightSource open_torch_or_pickle(const fs::path& path, const std::string& key) {
  const TorchFile file(path);
  WeightSource source;
  source.path = path;
  source.format = file.format() == TorchFileFormat::pickle ? "pickle" : "torch.save";
  ChosenNetwork chosen{&file.root(), nullptr, ""};
  if (!key.empty())
    chosen = network_at(file, key);
  else if (!file.cyclic())
    chosen = PreferredNetwork().find(file.root(), source.other_keys);
  source.key = chosen.key;
  const TorchFlattenOptions options{.key = chosen.key, .strip_prefixes = true};
  const PickleValue* shadows = chosen.parent ? shadow_params(*chosen.value) : nullptr;
  if (shadows) {
    chosen.value = averaged_network(*chosen.parent);
    if (!chosen.value)
      throw DataError(path.string(), shadows->offset(),
                      "a network 'model' beside averages without names (shadow_params)",
                      "none");
  }
  std::vector<TorchEntry> entries = file.flatten(*chosen.value, options);
  if (shadows) take_averages(file, *shadows, entries);
  for (const TorchEntry& entry : entries)
    source.tensors.emplace(entry.name, torch_tensor_as_at(entry.tensor));
  if (source.tensors.empty()) {
    if (!key.empty()) refuse_key(file, key);
    throw DataError(path.string(), {}, "tensors",
                    "none under " + (source.key.empty() ? "the top" : "'" + source.key + "'"));
  }
  source.config_json = constructor_of(*chosen.value);
  return source;
}

}  // namespace flowmap
