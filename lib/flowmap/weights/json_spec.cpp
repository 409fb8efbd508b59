#include "flowmap/weights/json_spec.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "flowmap/base/error.h"

namespace flowmap {

const at::Tensor& weight_at(const WeightSource& source, const std::string& name) {
  const auto found = source.tensors.find(name);
  if (found == source.tensors.end())
    throw DataError(source.path.string(), {}, "a tensor '" + name + "'", "none");
  return found->second;
}

bool has_weight(const WeightSource& source, const std::string& name) {
  return source.tensors.contains(name);
}

int64_t weight_size(const WeightSource& source, const std::string& name, int64_t dim) {
  const at::Tensor& tensor = weight_at(source, name);
  if (dim >= tensor.dim() || tensor.size(dim) < 1)
    throw DataError(source.path.string(), {},
                    "'" + name + "' of " + std::to_string(dim + 1) +
                        " dimensions or more, none of them empty",
                    "shape " + shape_text(tensor.sizes()));
  return tensor.size(dim);
}

int64_t count_numbered(const WeightSource& source, const std::string& prefix) {
  int64_t count = 0;
  for (;; ++count) {
    const std::string head = prefix + std::to_string(count) + ".";
    const auto next = source.tensors.lower_bound(head);
    if (next == source.tensors.end() || !next->first.starts_with(head)) return count;
  }
}

TensorMap renamed_below(const TensorMap& tensors, std::string_view prefix,
                        std::string_view replacement) {
  TensorMap result;
  for (const auto& [name, tensor] : tensors)
    if (name.starts_with(prefix))
      result.emplace(std::string(replacement) + name.substr(prefix.size()), tensor);
  return result;
}

std::string with_hints(const std::string& spec_json, const ImportHints& hints) {
  auto spec = nlohmann::json::parse(spec_json);
  const auto options = nlohmann::json::parse(hints.options, nullptr, false);
  FM_CHECK_USAGE(options.is_object(), "--arch-options: a JSON object is expected, not '",
                 hints.options, "'");
  for (const char* section : {"network", "preconditioning"})
    FM_CHECK_USAGE(!options.contains(section) || options[section].is_object(),
                   "--arch-options: '", section, "' is a section; give ", section,
                   ".KEY=VALUE");
  spec.merge_patch(options);
  return spec.dump();
}

std::string checked_json_object(const std::string& text, const std::string& where) {
  // nlohmann's parser keeps its own stack; what is later done with the value (dump, copy)
  // recurses, so depth is refused while it is read.
  constexpr int kMostLevels = 64;
  using Event = nlohmann::json::parse_event_t;
  const auto shallow = [&](int depth, Event event, nlohmann::json&) {
    if ((event == Event::object_start || event == Event::array_start) &&
        depth >= kMostLevels)
      throw DataError(where, {}, "JSON of at most 64 levels", "more");
    return true;
  };
  const auto object = nlohmann::json::parse(text, shallow, false);
  if (!object.is_object())
    throw DataError(where, {}, "a JSON object",
                    object.is_discarded() ? "text that is no JSON" : "another JSON value");
  return object.dump();
}

}  // namespace flowmap
