// Where the weights of LPIPS come from: files that the user has.
#include <cstdlib>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/perceptual/lpips.h"
#include "flowmap/perceptual/trunks.h"
#include "flowmap/weights/source.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;

fs::path folder_variable(const char* variable) {
  const char* value = std::getenv(variable);
  return value ? fs::path(value) : fs::path();
}

// Files that torchvision's loader leaves behind.
fs::path torch_checkpoints() {
  fs::path home = folder_variable("TORCH_HOME");
  if (home.empty()) {
    const fs::path cache = folder_variable("XDG_CACHE_HOME");
    home = (cache.empty() ? folder_variable("HOME") / ".cache" : cache) / "torch";
  }
  return home / "hub" / "checkpoints";
}

fs::path first_lpips_file(const std::vector<fs::path>& places) {
  for (const fs::path& place : places)
    if (!place.empty() && fs::is_regular_file(place)) return place;
  return {};
}

std::string list_of_places(const std::vector<fs::path>& places) {
  std::vector<std::string> names;
  for (const fs::path& place : places) names.push_back(place.string());
  return join(names, ", ");
}

// The file that the option names, or one of `places`.
fs::path find_lpips_file(const fs::path& given, const char* key, const std::string& what,
                         const std::vector<fs::path>& places, const std::string& source) {
  FM_CHECK_USAGE(given.empty() || fs::is_regular_file(given), "perceptual.", key, ": ",
                 given.string(), " does not exist; it should be ", what, " (", source, ")");
  const fs::path found = given.empty() ? first_lpips_file(places) : given;
  FM_CHECK_USAGE(!found.empty(), "LPIPS needs ", what, ", which is not there (looked for ",
                 list_of_places(places), "); give perceptual.", key, " = FILE or put it into the "
                 "folder FLOWMAP_LPIPS. ", source, ". For 28x28 gray images "
                 "the distance `classifier` needs no such files");
  return found;
}

}  // namespace

LpipsOptions read_lpips_options(const Config& options) {
  LpipsOptions read;
  const std::vector<std::string> nets = {"alex", "vgg", "squeeze"};
  read.net = options.choice("net", nets, "vgg");
  read.trunk = options.path("trunk", "");
  read.heads = options.path("heads", "");
  const std::string resize = options.raw("resize");
  if (resize == "null" || resize == "\"native\"") {
    options.string("resize", "native");
  } else {
    read.resize = options.integer("resize", 0, 16, 1024);
  }
  read.align_corners = options.boolean("align_corners", true);
  const std::vector<std::string> pools = {"max", "average"};
  read.average_pooling = options.choice("pooling", pools, "max") == "average";
  return read;
}

std::shared_ptr<Lpips> make_lpips(const LpipsOptions& options) {
  const TrunkLayout& layout = trunk_layout(options.net);
  const fs::path own = folder_variable("FLOWMAP_LPIPS");
  std::vector<fs::path> trunks, heads;
  if (!own.empty()) {
    trunks = {own / layout.file, own / fs::path(layout.file).replace_extension("safetensors")};
    heads = {own / (options.net + ".pth"), own / (options.net + ".safetensors")};
  }
  trunks.push_back(torch_checkpoints() / layout.file);
  LpipsOptions found = options;
  found.trunk = find_lpips_file(
      options.trunk, "trunk",
      std::string("torchvision's weights of the network ") + options.net, trunks,
      std::string("They are https://download.pytorch.org/models/") + layout.file);
  found.heads = find_lpips_file(
      options.heads, "heads", "the linear heads of LPIPS v0.1 for " + options.net, heads,
      "They are lpips/weights/v0.1/" + options.net +
          ".pth of the Python package lpips (github.com/richzhang/PerceptualSimilarity)");
  return std::make_shared<Lpips>(found, open_weights(found.trunk).tensors,
                                 open_weights(found.heads).tensors);
}

}  // namespace flowmap
