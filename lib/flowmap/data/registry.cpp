#include <filesystem>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/data/dataset.h"
#include "flowmap/data/in_memory.h"
#include "flowmap/data/picture_files.h"

namespace flowmap {
namespace {

std::string dataset_type_of_path(const Config& options) {
  const std::filesystem::path path = options.path("path", "");
  if (path.empty())
    throw UsageError("data: give data.path, or data.type for a built-in set");
  if (!std::filesystem::exists(path))
    throw UsageError("data.path: " + path.string() + " does not exist");
  if (std::filesystem::exists(path / "pairs.json")) return "pairs";
  return is_idx(path) ? "idx" : "pictures";
}

}  // namespace

const std::vector<DatasetEntry>& dataset_registry() {
  static const std::vector<DatasetEntry> entries{
      {"fashion_mnist", "Fashion-MNIST, 28x28 gray (Debian: dataset-fashion-mnist)",
       &make_fashion_mnist},
      {"idx", "MNIST-like IDX files, plain or .gz: a folder or the images' file",
       &make_idx_dataset},
      {"pictures", "what `flowmap dataset convert` reads: a folder of PNG/JPEG, a zip, "
                   "CIFAR's tarballs, npz", &make_pictures},
      {"edm_zip", "EDM's ZIP of PNGs with dataset.json", &make_pictures},
      {"pairs", "a folder of `flowmap pairs`: samples of a teacher and their noise",
       &make_pairs},
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
