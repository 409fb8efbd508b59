// A data set on disk as EDM's programs take it: 00000/img00000000.png, ... and
// dataset.json, in a stored zip or a folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "flowmap/data/picture_source.h"

namespace flowmap {

// Equal content gives equal bytes. Nothing stands under the name before commit(): a zip
// and a folder are written beside it under another one, and go where the writer goes
// without commit().
class DatasetWriter {
 public:
  // A name that ends in .zip is a zip, any other a folder, which must be new or empty.
  // Throws UsageError (naming --dest), Error where it cannot be made.
  explicit DatasetWriter(const std::filesystem::path& dest);
  ~DatasetWriter();

  // The picture numbered so; numbers grow, and may leave gaps.
  void add(std::int64_t number, std::span<const std::byte> png,
           const std::optional<PictureLabel>& label);
  // Writes dataset.json. Labels of some pictures only are null.
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flowmap
