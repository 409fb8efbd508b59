#include "metrics/stats_file_names.h"

#include <algorithm>
#include <cctype>
#include <string_view>
#include <vector>

#include "flowmap/base/text.h"

namespace flowmap::metrics {

bool read_clean_fid_name(const std::filesystem::path& path, FeatureSource& source) {
  std::string stem = path.stem().string();
  if (stem.ends_with("_kid")) stem.resize(stem.size() - 4);
  for (const std::string_view mode : {"clean", "legacy_tensorflow", "legacy_pytorch"}) {
    const std::string marked = "_" + std::string(mode) + "_";
    const std::size_t found = stem.find(marked);
    if (found == std::string::npos || found == 0) continue;
    // [model parts...] split res
    const std::vector<std::string> rest = split(stem.substr(found + marked.size()), '_');
    if (rest.size() < 2) return false;
    const std::string& resolution = rest.back();
    const bool digits = !resolution.empty() &&
                        std::all_of(resolution.begin(), resolution.end(),
                                    [](unsigned char c) { return std::isdigit(c) != 0; });
    if (!digits && resolution != "na") return false;
    source.mode = mode;
    source.resolution = digits ? resolution + "x" + resolution : "";
    source.detector = "inception";
    if (rest.size() > 2) {
      const std::vector<std::string> model(rest.begin(), rest.end() - 2);
      source.detector = join(model, "_");
    }
    return true;
  }
  return false;
}

}  // namespace flowmap::metrics
