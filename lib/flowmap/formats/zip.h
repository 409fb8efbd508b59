// ZIP archives: read through libzip, which is maintained and handles ZIP64; written by a
// writer that streams, since libzip would keep every entry in memory until the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flowmap {

// Reads stored and deflated entries by index or name. The constructor throws DataError on
// anything libzip refuses and on duplicate names; read() does on a CRC mismatch, a false
// size, and an entry beyond `max_entry_bytes`. Several threads may read at once (they
// take turns inside).
class ZipReader {
 public:
  // `max_entry_bytes` bounds the uncompressed size of an entry: a zip bomb is an error.
  explicit ZipReader(const std::filesystem::path& path,
                     std::uint64_t max_entry_bytes = std::uint64_t{1} << 34);
  // From memory (kept by the caller); `name` stands for the path in errors.
  ZipReader(std::span<const std::byte> bytes, std::string name,
            std::uint64_t max_entry_bytes = std::uint64_t{1} << 34);
  ~ZipReader();
  ZipReader(ZipReader&&) noexcept;
  ZipReader& operator=(ZipReader&&) noexcept;

  std::size_t size() const;
  const std::string& name(std::size_t index) const;
  std::uint64_t entry_bytes(std::size_t index) const;
  // Index of the entry, or -1.
  std::int64_t find(std::string_view name) const;
  std::vector<std::byte> read(std::size_t index) const;
  std::vector<std::byte> read(std::string_view name) const;
  // A stored entry where it lies in the file: no copy, and no look at its CRC, so it costs
  // nothing however large the entry is. Valid while the reader lives. nullopt where the
  // entry is packed, or the archive unusual; read() it then.
  std::optional<std::span<const std::byte>> view(std::size_t index) const;
  const std::string& path() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Writes a stored (not deflated) archive, atomically; entries carry the fixed date
// 1980-01-01, so equal content gives equal bytes. Content is written when it is added and
// not kept; ZIP64 records appear where they are needed. Throws Error on a name that is
// there already, empty or over 65535 bytes, and where the file cannot be written.
class ZipWriter {
 public:
  explicit ZipWriter(const std::filesystem::path& path);
  ~ZipWriter();
  // The content begins at a multiple of `alignment` (at most 4096) in the file.
  void add(std::string_view name, std::span<const std::byte> content,
           std::size_t alignment = 1);
  void add(std::string_view name, std::string_view content, std::size_t alignment = 1);
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flowmap
