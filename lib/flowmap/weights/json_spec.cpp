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

int64_t weight_rows(const WeightSource& source, const std::string& name) {
  const at::Tensor& tensor = weight_at(source, name);
  if (tensor.dim() == 0)
    throw DataError(source.path.string(), {}, "'" + name + "' with dimensions",
                    "a lone number");
  return tensor.size(0);
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
  spec.merge_patch(options);
  return spec.dump();
}

}  // namespace flowmap
