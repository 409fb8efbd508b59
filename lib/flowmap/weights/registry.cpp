#include <array>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/weights/json_spec.h"

namespace flowmap {

extern const WeightLayout kOwnLayout, kEdmLayout, kDitLayout, kDiffusersDitLayout,
    kDiffusersUnetLayout, kSlimflowLayout;

const std::vector<WeightLayout>& weight_layouts() {
  static const std::vector<WeightLayout> layouts = {
      kOwnLayout, kEdmLayout, kDitLayout, kDiffusersDitLayout, kDiffusersUnetLayout,
      kSlimflowLayout,
  };
  return layouts;
}

namespace {

// Lightning and accelerate hang whole networks below such names, averages first.
constexpr std::array<const char*, 6> kWrapperPrefixes = {"ema.",   "G_ema.", "model_ema.",
                                                         "net.", "model.", "generator."};

const WeightLayout* layout_of(const WeightSource& source, const ImportHints& hints) {
  for (const WeightLayout& layout : weight_layouts())
    if (hints.arch == layout.name || layout.recognises(source)) return &layout;
  return nullptr;
}

}  // namespace

ImportedWeights import_weights(const WeightSource& given, const ImportHints& hints) {
  WeightSource source = given;
  const WeightLayout* layout = layout_of(source, hints);
  for (std::size_t i = 0; !layout && i < kWrapperPrefixes.size(); ++i) {
    WeightSource inner = given;
    inner.tensors = renamed_below(given.tensors, kWrapperPrefixes[i], "");
    layout = layout_of(inner, hints);
    if (layout) source = inner;
  }
  if (layout) {
    ImportedWeights result = layout->read(source, hints);
    result.layout = layout->name;
    if (layout == &weight_layouts().front()) return result;  // its own says where from
    if (!source.key.empty()) result.metadata["source_key"] = source.key;
    result.metadata["source"] = source.path.filename().string() + " (" + source.format + ")";
    return result;
  }
  std::vector<std::string> names;
  for (const WeightLayout& row : weight_layouts()) names.emplace_back(row.name);
  std::string shown;
  for (const auto& [name, tensor] : source.tensors) {
    if (shown.size() > 160) break;
    shown += (shown.empty() ? "'" : ", '") + name + "'";
  }
  throw DataError(source.path.string(), {},
                  "tensors under the names of a known program (" + join(names, ", ") +
                      "; --arch tells which)",
                  (shown.empty() ? "no tensors" : shown + ", ...") +
                      "; 'flowmap inspect' lists all");
}

}  // namespace flowmap
