#include "flowmap/weights/source.h"

#include <ATen/ATen.h>

#include <fstream>
#include <string_view>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/text.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

// The first bytes of a file; fewer where it is shorter.
std::string head_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw DataError(path.string(), {}, "a readable file", "none");
  std::string head(16, '\0');
  in.read(head.data(), static_cast<std::streamsize>(head.size()));
  head.resize(static_cast<std::size_t>(in.gcount()));
  return head;
}

// The length of a header (at most 100 MB) in front of '{'. Such a length may begin with the
// byte of a pickle; a pickle does not go on with zeros.
bool starts_as_safetensors(const std::string& head) {
  return head.size() >= 9 && head[8] == '{' &&
         head.compare(4, 4, std::string_view("\0\0\0\0", 4)) == 0;
}

bool starts_as_torch_or_pickle(const std::string& head) {
  return head.starts_with("PK\x03\x04") || head.starts_with("\x80");
}

fs::path weights_in_folder(const fs::path& folder) {
  for (const char* name :
       {"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin"})
    if (fs::exists(folder / name)) return folder / name;
  throw DataError(folder.string(), {},
                  "config.json of diffusers, or model.safetensors (or its index)",
                  "a folder with neither");
}

}  // namespace

WeightSource open_weights(const fs::path& path, const std::string& key) {
  if (fs::is_directory(path)) {
    // Alone, or in the folder of a whole pipeline.
    for (const fs::path& part : {path, path / "unet", path / "transformer"}) {
      if (!fs::exists(part / "config.json")) continue;
      FM_CHECK_USAGE(key.empty(), "--key: ", part.string(),
                     " is a folder of diffusers, which holds one network; leave --key away");
      return open_diffusers_folder(part);
    }
    return open_weights(weights_in_folder(path), key);
  }
  const std::string head = head_of(path);
  const bool safetensors =
      starts_as_safetensors(head) || path.string().ends_with(".index.json");
  if (!safetensors && starts_as_torch_or_pickle(head))
    return open_torch_or_pickle(path, key);
  if (!safetensors)
    throw DataError(path.string(), 0,
                    "weights: safetensors, a torch.save file, a pickle of EDM's, or a "
                    "folder of diffusers",
                    head.empty() ? "an empty file" : "another kind of file");
  FM_CHECK_USAGE(key.empty(), "--key: ", path.string(),
                 " is a safetensors file, which holds one network");
  return open_safetensors(path);
}

}  // namespace flowmap
