#include <filesystem>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/data/dataset.h"
#include "flowmap/data/in_memory.h"

namespace flowmap {
namespace {

std::string dataset_type_of_path(const Config& options) {
  const std::filesystem::path path = options.path("path", "");
  if (path.empty())
    throw UsageError("data: give data.path, or data.type for a built-in set");
  const std::string name = path.filename().string();
  if (std::filesystem::is_directory(path)) {
    for (const char* file : {"train-images-idx3-ubyte", "t10k-images-idx3-ubyte"})
      if (std::filesystem::exists(path / file) ||
          std::filesystem::exists(path / (std::string(file) + ".gz")))
        return "idx";
    throw UsageError("data.path: " + path.string() +
                     " is a folder without IDX files (train-images-idx3-ubyte[.gz])");
  }
  if (!std::filesystem::exists(path))
    throw UsageError("data.path: " + path.string() + " does not exist");
  if (ends_with_ignoring_case(name, ".zip")) return "edm_zip";
  if (name.find("idx") != std::string::npos || ends_with_ignoring_case(name, ".gz"))
    return "idx";
  throw UsageError("data.path: cannot tell what " + path.string() +
                   " is; known: an EDM .zip, an IDX file, a folder of IDX files");
}

}  // namespace

const std::vector<DatasetEntry>& dataset_registry() {
  static const std::vector<DatasetEntry> entries{
      {"fashion_mnist", "Fashion-MNIST, 28x28 gray (Debian: dataset-fashion-mnist)",
       &make_fashion_mnist},
      {"idx", "MNIST-like IDX files, plain or .gz: a folder or the images' file",
       &make_idx_dataset},
      {"edm_zip", "EDM's ZIP of PNGs with dataset.json", &make_edm_zip},
      {"checkerboard", "points: uniform on 8 of 4x4 squares", &make_checkerboard},
      {"eight_gaussians", "points: eight blobs on a circle", &make_eight_gaussians},
      {"moons", "points: two interleaved half circles", &make_moons},
      {"spirals", "points: two spiral arms", &make_spirals},
  };
  return entries;
}

std::shared_ptr<Dataset> make_dataset(const Config& options) {
  std::string type = options.string("type", "auto");
  if (type == "auto") type = dataset_type_of_path(options);
  std::vector<std::string> names{"auto"};
  for (const DatasetEntry& entry : dataset_registry()) {
    if (type == entry.name) return entry.make(options);
    names.emplace_back(entry.name);
  }
  throw UsageError("data.type: unknown data set '" + type + "'" + suggestion(type, names));
}

}  // namespace flowmap
