#include "metrics/detectors/weights_file.h"

#include <cstdlib>

#include "flowmap/base/error.h"
#include "flowmap/formats/safetensors.h"

namespace flowmap::metrics {

namespace fs = std::filesystem;

fs::path find_weights_file(const WeightsSearch& search) {
  const std::string who = "detector " + search.detector + ": ";
  if (!search.given.empty()) {
    FM_CHECK_USAGE(fs::exists(search.given), who, "weights ", search.given,
                   " do not exist (from --detector)");
    const std::string why = search.refuses(search.given);
    FM_CHECK_USAGE(why.empty(), who, search.given, " (from --detector): ", why);
    return search.given;
  }
  std::string tried;
  const auto note = [&](const std::string& place) {
    tried += (tried.empty() ? "" : ", ") + place;
  };
  if (const char* variable = std::getenv("FLOWMAP_DETECTOR"); variable && *variable) {
    FM_CHECK_USAGE(fs::exists(variable), who, "weights ", variable,
                   " do not exist (from FLOWMAP_DETECTOR)");
    const std::string why = search.refuses(variable);
    if (why.empty()) return variable;
    note("FLOWMAP_DETECTOR=" + std::string(variable) + " (" + why + ")");
  } else {
    note("FLOWMAP_DETECTOR (not set)");
  }
  std::error_code ignored;
  for (const fs::path& place : search.places) {
    if (fs::is_regular_file(place, ignored)) return place;
    note(place.string());
  }
  throw UsageError(who + "no weights found; " + search.remedy + " Looked for: " + tried);
}

bool is_snapshot_file(const fs::path& path) {
  try {
    return SafetensorsReader(path).metadata().contains("flowmap");
  } catch (const Error&) {
    return false;  // no safetensors; whoever opens it says more
  }
}

}  // namespace flowmap::metrics
