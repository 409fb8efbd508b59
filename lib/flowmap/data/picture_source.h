// Pictures and labels by index out of whatever holds them: what `dataset convert` reads
// and what `fid` scores.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "flowmap/formats/image.h"

namespace flowmap {

// A class, or a vector as EDM's dataset.json may hold.
using PictureLabel = std::variant<std::int64_t, std::vector<float>>;

struct PictureSourceFacts {
  std::string kind;                      // "folder", "zip", "CIFAR-10 in Python's format"
  std::vector<std::string> class_names;  // of classes 0, 1, ...; empty where unknown
  std::int64_t ignored = 0;              // files that are no pictures by their names
  std::int64_t missing = 0;              // named by dataset.json and not there
  std::string first_ignored, first_missing;
};

class PictureSource {
 public:
  virtual ~PictureSource() = default;
  virtual std::string name() const = 0;  // short: the file's or folder's stem
  virtual std::int64_t size() const = 0;
  // "PATH:ENTRY" or "PATH[12]": for messages.
  virtual std::string entry_name(std::int64_t index) const = 0;
  // Decoded to 8 bits, 1, 3 or 4 channels. Safe to call from several threads at once.
  // Throws DataError on a broken picture; the source stays usable.
  virtual Image read(std::int64_t index) const = 0;
  // Of every picture, and all of one kind; or of none.
  virtual std::optional<PictureLabel> label(std::int64_t index) const = 0;
  virtual PictureSourceFacts facts() const { return {}; }
};

// By what `path` is:
//   a folder (recursive; PNG/JPEG, sorted by path relative to it, part by part; labels
//   from its dataset.json if there is one, else by the folders at its top if there are
//   several, as EDM),
//   a zip of pictures in sorted order, with dataset.json (EDM's),
//   cifar-10-python.tar.gz, cifar-100-python.tar.gz, their binary twins (training split
//   in the original order; `split` "test": the test split), also unpacked .tar or folder,
//   IDX files, plain or .gz, or a folder of them,
//   npz with uint8 `arr_0` [N, H, W, C] and labels `arr_1` [N] where present.
// `flag` names the option in errors ("--source"). Throws UsageError: no such path,
// nothing in it, an unknown kind (and what is known); DataError: broken content, labels
// that are not whole. The first picture of more than 8 bits is one warning.
std::shared_ptr<PictureSource> open_pictures(const std::filesystem::path& path,
                                             std::string_view flag,
                                             const std::string& split = "train");

}  // namespace flowmap
