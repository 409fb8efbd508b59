// The kinds of sources behind open_pictures(), one file each.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flowmap/data/picture_source.h"

namespace flowmap {

// .png, .jpg, .jpeg in any case.
bool is_picture_name(std::string_view name);

// PNG and JPEG bytes by index; read() decodes them and warns once of 16-bit pictures.
class EncodedPictures : public PictureSource {
 public:
  Image read(std::int64_t index) const final;

 protected:
  Image decode(std::span<const std::byte> bytes, std::int64_t index) const;
  virtual Image read_and_decode(std::int64_t index) const = 0;

 private:
  mutable std::atomic<bool> warned_{false};
};

// Pictures of one size in memory.
struct PictureArray {
  std::string name, path;
  std::int64_t count = 0;
  int width = 0, height = 0, channels = 0;
  bool planes = false;               // [N, C, H, W] rather than [N, H, W, C]
  std::vector<std::byte> bytes;
  std::vector<std::int64_t> classes;  // [N], or empty
  PictureSourceFacts facts;
};
std::shared_ptr<PictureSource> array_pictures(PictureArray content);

// Each returns nullptr where `path` is of another kind.
std::shared_ptr<PictureSource> open_cifar(const std::filesystem::path& path,
                                          std::string_view flag, const std::string& split);
std::shared_ptr<PictureSource> open_idx_pictures(const std::filesystem::path& path,
                                                 std::string_view flag,
                                                 const std::string& split);
std::shared_ptr<PictureSource> open_picture_npz(const std::filesystem::path& path);
std::shared_ptr<PictureSource> open_picture_zip(const std::filesystem::path& path);
std::shared_ptr<PictureSource> open_picture_folder(const std::filesystem::path& path);

// IDX by MNIST's own names: train-images-idx3-ubyte[.gz], t10k-labels-idx1-ubyte[.gz].
struct IdxFiles {
  std::filesystem::path images;
  std::filesystem::path labels;  // "" if there are none
};
// Whether `path` is a folder of such files, or a file of that format.
bool is_idx(const std::filesystem::path& path);
// `path` is that folder, or the file of pictures, beside which its labels are looked for.
// Throws UsageError naming `flag`.
IdxFiles find_idx_files(const std::filesystem::path& path, const std::string& split,
                        std::string_view flag);

}  // namespace flowmap
