// Tar archives, plain or gzipped: ustar with pax and GNU long names, read as a stream. Our
// own reader: a header is 512 bytes of text and zlib is here already, where libarchive
// would bring a dozen formats and their libraries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace flowmap {

struct TarEntry {
  std::string name;  // as stored; no path to write to
  std::uint64_t bytes = 0;
};

// Regular files in the order of the archive; folders, links and devices are passed over.
// Every function throws DataError: a wrong checksum, sizes that are no numbers, an archive
// cut before its block of zeros, damaged gzip data, GNU sparse files. Offsets in errors
// count unpacked bytes.
class TarReader {
 public:
  explicit TarReader(const std::filesystem::path& path);
  // From memory (kept by the caller); `name` stands for the path in errors.
  TarReader(std::span<const std::byte> bytes, std::string name);
  ~TarReader();
  TarReader(TarReader&&) noexcept;
  TarReader& operator=(TarReader&&) noexcept;

  // nullopt at the end, after a gzip stream was read to its checksum.
  std::optional<TarEntry> next();
  // The content of the entry that next() gave, once. Memory grows with what is there, not
  // with what the header claims; more than `max_bytes` is refused.
  std::vector<std::byte> read(std::uint64_t max_bytes = std::uint64_t{1} << 32);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flowmap
