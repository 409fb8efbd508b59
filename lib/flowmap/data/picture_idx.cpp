// MNIST and its relatives in IDX files (formats/idx.h).
#include <algorithm>
#include <fstream>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/data/picture_files.h"
#include "flowmap/formats/idx.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

fs::path plain_or_gz(const fs::path& base) {
  if (fs::exists(base)) return base;
  const fs::path gz = base.string() + ".gz";
  return fs::exists(gz) ? gz : fs::path();
}

// Pictures of bytes: 0, 0, type 8, 3 dimensions.
bool begins_as_idx(const fs::path& file) {
  char begin[4] = {};
  std::ifstream(file, std::ios::binary).read(begin, 4);
  return begin[0] == 0 && begin[1] == 0 && begin[2] == 8 && begin[3] == 3;
}

}  // namespace

bool is_idx(const fs::path& path) {
  if (fs::is_directory(path)) {
    for (const char* file : {"train-images-idx3-ubyte", "t10k-images-idx3-ubyte"})
      if (!plain_or_gz(path / file).empty()) return true;
    return false;
  }
  const std::string name = path.filename().string();
  for (const char* ending : {".zip", ".npz", ".tar", ".tar.gz", ".tgz"})
    if (ends_with_ignoring_case(name, ending)) return false;
  return name.find("idx") != std::string::npos || ends_with_ignoring_case(name, ".gz") ||
         begins_as_idx(path);
}

IdxFiles find_idx_files(const fs::path& path, const std::string& split,
                        std::string_view flag) {
  IdxFiles files;
  if (fs::is_directory(path)) {
    const std::string stem = split == "train" ? "train" : "t10k";
    files.images = plain_or_gz(path / (stem + "-images-idx3-ubyte"));
    files.labels = plain_or_gz(path / (stem + "-labels-idx1-ubyte"));
    if (files.images.empty())
      throw UsageError(std::string(flag) + ": no " + stem +
                       "-images-idx3-ubyte[.gz] in " + path.string());
    return files;
  }
  if (!fs::exists(path))
    throw UsageError(std::string(flag) + ": " + path.string() + " does not exist");
  files.images = path;
  std::string name = path.filename().string();
  constexpr std::string_view kImages = "images-idx3";
  if (const auto at = name.find(kImages); at != std::string::npos) {
    name.replace(at, kImages.size(), "labels-idx1");
    if (ends_with_ignoring_case(name, ".gz")) name.resize(name.size() - 3);
    files.labels = plain_or_gz(path.parent_path() / name);
  }
  return files;
}

std::shared_ptr<PictureSource> open_idx_pictures(const fs::path& path,
                                                 std::string_view flag,
                                                 const std::string& split) {
  if (!is_idx(path)) return nullptr;
  const IdxFiles files = find_idx_files(path, split, flag);
  HostTensor images = read_idx(files.images);
  if (images.shape.size() != 3 || images.shape[1] < 1 || images.shape[2] < 1)
    throw DataError(files.images.string(), 3,
                    "pictures: 3 dimensions [count, height, width]",
                    shape_text(images.shape));
  PictureArray content;
  content.facts.kind = "IDX";
  const fs::path folder = fs::absolute(files.images).parent_path();
  content.name = folder.filename().string();
  if (content.name.empty()) content.name = "idx";
  content.path = files.images.string();
  content.count = images.shape[0];
  content.height = static_cast<int>(images.shape[1]);
  content.width = static_cast<int>(images.shape[2]);
  content.channels = 1;
  content.bytes = std::move(images.bytes);
  if (!files.labels.empty()) {
    const HostTensor labels = read_idx(files.labels);
    if (labels.shape != std::vector<std::int64_t>{content.count})
      throw DataError(files.labels.string(), 4,
                      std::to_string(content.count) + " labels, one an image of " +
                          content.path,
                      shape_text(labels.shape));
    for (const std::byte label : labels.bytes)
      content.classes.push_back(std::to_integer<std::int64_t>(label));
  }
  return array_pictures(std::move(content));
}

}  // namespace flowmap
