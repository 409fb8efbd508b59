#include "distill/weight_options.h"

#include <array>
#include <string_view>
#include <utility>

#include "flowmap/base/error.h"

namespace flowmap::distill {
namespace {

// "--arch-options network.num_heads=N" in an error becomes the override that says the same,
// "method.teacher_options.options.network.num_heads=N".
std::string flags_as_keys(std::string text, const std::string& key) {
  const std::array<std::pair<std::string_view, std::string>, 7> replacements = {
      {{"--arch-options network.", key + ".options.network."},
       {"--arch-options preconditioning.", key + ".options.preconditioning."},
       {"--arch-options sample_shape", key + ".options.sample_shape"},
       {"--arch-options", key + ".options"},
       {"--arch ", key + ".arch="},
       {"--arch", key + ".arch"},
       {"--key", key + ".key"}}};
  for (const auto& [flag, replacement] : replacements)
    for (std::size_t at = text.find(flag); at != std::string::npos;
         at = text.find(flag, at + replacement.size()))
      text.replace(at, flag.size(), replacement);
  return text;
}

}  // namespace

WeightOptions read_weight_options(const Config& config, const std::string& key) {
  WeightOptions result{.key = key, .where = {}, .load = {}};
  // Without it nothing is read: the resolved configuration stays as it was.
  if (!config.has(key)) return result;
  result.where = config.where(key);
  const Config options = config.child(key);
  result.load.key = options.string("key", "");
  result.load.hints.arch = options.string("arch", "");
  if (options.has("options")) {
    options.child("options");  // refuses what is no object
    result.load.hints.options = options.raw("options");
  }
  return result;
}

void load_with(const WeightOptions& options,
               const std::function<void(const LoadOptions&)>& load) {
  const bool given = !options.where.empty();
  try {
    load(options.load);
  } catch (const UsageError& error) {
    const std::string text = flags_as_keys(error.what(), options.key);
    if (!given) throw UsageError(text);
    throw UsageError(options.where + ": " + options.key + ": " + text);
  } catch (const DataError& error) {
    std::string got = flags_as_keys(error.got(), options.key);
    if (given) got += " (read as " + options.key + ", " + options.where + ", says)";
    throw DataError(error.path(), error.offset(),
                    flags_as_keys(error.expected(), options.key), got);
  }
}

}  // namespace flowmap::distill
