#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/network.h"
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

// The layout that recognises the source: the one of the name that --arch gives, or any.
// "dit" names a layout and a network; the network's other layouts count as well.
const WeightLayout* layout_of(const WeightSource& source, const ImportHints& hints) {
  const auto& entries = network_registry();
  const bool network = std::any_of(entries.begin(), entries.end(),
                                   [&](const auto& e) { return hints.arch == e.name; });
  for (const bool by_name : {true, false})
    for (const WeightLayout& layout : weight_layouts())
      if ((by_name ? hints.arch == layout.name : hints.arch.empty() || network) &&
          layout.recognises(source))
        return &layout;
  return nullptr;
}

// layout.read, where whatever a tensor of another shape or a key of another type upsets is
// an error of the file.
ImportedWeights read_checked(const WeightLayout& layout, const WeightSource& source,
                             const ImportHints& hints) {
  const auto refuse = [&](const std::string& what) {
    return DataError(source.path.string(), {},
                     std::string("weights as ") + layout.name + " has them (" +
                         layout.summary + ")",
                     what);
  };
  try {
    return layout.read(source, hints);
  } catch (const c10::Error& error) {
    throw refuse(error.what_without_backtrace());
  } catch (const nlohmann::json::exception& error) {
    throw refuse(error.what());
  }
}

void check_arch(const std::string& arch) {
  if (arch.empty()) return;
  std::vector<std::string> known;
  for (const WeightLayout& layout : weight_layouts()) known.emplace_back(layout.name);
  for (const NetworkEntry& entry : network_registry()) known.emplace_back(entry.name);
  FM_CHECK_USAGE(std::find(known.begin(), known.end(), arch) != known.end(),
                 "--arch: unknown '", arch, "'", suggestion(arch, known), "; known: ",
                 join(known, ", "));
}

}  // namespace

ImportedWeights import_weights(const WeightSource& given, const ImportHints& hints) {
  check_arch(hints.arch);
  WeightSource source = given;
  const WeightLayout* layout = layout_of(source, hints);
  for (std::size_t i = 0; !layout && i < kWrapperPrefixes.size(); ++i) {
    WeightSource inner = given;
    inner.tensors = renamed_below(given.tensors, kWrapperPrefixes[i], "");
    layout = layout_of(inner, hints);
    if (layout) source = inner;
  }
  if (layout) {
    ImportedWeights result = read_checked(*layout, source, hints);
    result.layout = layout->name;
    if (result.metadata.contains("flowmap")) return result;  // a snapshot says where from
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
