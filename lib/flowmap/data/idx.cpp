// Fashion-MNIST and other sets in IDX files (formats/idx.h).
#include <ATen/ATen.h>

#include <array>
#include <filesystem>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/data/in_memory.h"
#include "flowmap/data/picture_files.h"
#include "flowmap/formats/idx.h"
#include "flowmap/tensor_io.h"

namespace flowmap {
namespace {

constexpr const char* kFashionMnistFolder = "/usr/share/datasets/fashion-mnist";

std::shared_ptr<Dataset> load_idx(const Config& options, const std::filesystem::path& path,
                                  const std::string& name, int64_t class_count) {
  const std::array<std::string, 2> splits{"train", "test"};
  const std::string split = options.choice("split", splits, "train");
  const bool use_labels = options.boolean("labels", false);
  const int64_t max_images = options.integer("max_images", 0, 0);
  const IdxFiles files = find_idx_files(path, split, "data.path");

  InMemoryImages content;
  content.source = files.images.string();
  const HostTensor images = read_idx(files.images);
  if (images.shape.size() != 3)
    throw DataError(content.source, 3, "3 dimensions [count, height, width]",
                    shape_text(images.shape));
  content.images = to_tensor(images).unsqueeze(1);
  content.name = name + "-" + std::to_string(images.shape[1]) + "x" +
                 std::to_string(images.shape[2]);
  if (!files.labels.empty()) {
    const HostTensor labels = read_idx(files.labels);
    if (labels.shape.size() != 1)
      throw DataError(files.labels.string(), 3, "1 dimension", shape_text(labels.shape));
    if (labels.shape[0] != images.shape[0])
      throw DataError(files.labels.string(), 4,
                      std::to_string(images.shape[0]) + " labels, one an image of " +
                          content.source,
                      std::to_string(labels.shape[0]));
    content.classes = to_tensor(labels).to(at::kLong);
    const int64_t highest =
        content.classes.numel() ? content.classes.max().item<int64_t>() : 0;
    content.class_count = class_count ? class_count : highest + 1;
    if (highest >= content.class_count)
      throw DataError(files.labels.string(), {},
                      "labels 0 to " + std::to_string(content.class_count - 1),
                      std::to_string(highest));
  }
  return in_memory_dataset(std::move(content), use_labels, max_images);
}

}  // namespace

std::shared_ptr<Dataset> make_idx_dataset(const Config& options) {
  const std::filesystem::path path = options.path("path");
  std::string name = std::filesystem::is_directory(path)
                         ? path.filename().string()
                         : path.parent_path().filename().string();
  if (name.empty()) name = "idx";
  return load_idx(options, path, name, 0);
}

std::shared_ptr<Dataset> make_fashion_mnist(const Config& options) {
  const std::string path = options.path("path", kFashionMnistFolder);
  if (!std::filesystem::exists(path))
    throw UsageError("data.path: Fashion-MNIST is not at " + path +
                     "; install the Debian package dataset-fashion-mnist (contrib: "
                     "apt-get install dataset-fashion-mnist) or give the folder that "
                     "holds train-images-idx3-ubyte.gz");
  return load_idx(options, path, "fashion-mnist", 10);
}

}  // namespace flowmap
