// Where the entries of a ZIP archive lie in the file, which libzip does not tell.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace flowmap {

struct ZipLocation {
  std::string_view name;  // view into the archive
  std::uint64_t packed = 0, size = 0, header = 0;
  std::uint16_t flags = 0, method = 0;
};

// The central directory, in its order; nullopt where it is not as simple as writers make
// it (several disks, an end record that does not end the file).
std::optional<std::vector<ZipLocation>> zip_directory(std::span<const std::byte> bytes);

// Content of a stored entry in the archive; nullopt for any other entry, and where the
// local header is not what the directory says.
std::optional<std::span<const std::byte>> zip_stored_content(
    std::span<const std::byte> bytes, const ZipLocation& entry);

}  // namespace flowmap
