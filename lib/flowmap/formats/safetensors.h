// safetensors: u64 header length, JSON header, raw little-endian tensors. The reader maps
// the file; nothing is copied until asked for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flowmap/base/dtype.h"

namespace flowmap {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // in the buffer after the header
};

// Checks the whole header at opening: length at most 100 MB and inside the file, strict
// JSON object, no duplicate keys, known dtypes, sizes without overflow that match the
// offsets, tensors that cover the buffer without a hole or an overlap.
// Throws DataError (path, offset, expected, got).
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::filesystem::path& path);
  // From memory kept by the caller.
  SafetensorsReader(std::span<const std::byte> bytes, std::string name);
  ~SafetensorsReader();
  SafetensorsReader(SafetensorsReader&&) noexcept;
  SafetensorsReader& operator=(SafetensorsReader&&) noexcept;

  // In the order of the buffer.
  const std::vector<SafetensorsEntry>& entries() const;
  const std::map<std::string, std::string>& metadata() const;
  // nullptr if absent.
  const SafetensorsEntry* find(std::string_view name) const;
  // The mapped bytes; valid while the reader lives.
  std::span<const std::byte> data(const SafetensorsEntry& entry) const;
  // A copy. Throws DataError naming the missing tensor and the nearest name.
  HostTensor read(std::string_view name) const;
  const std::string& path() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A tensor to be written, its bytes owned by the caller.
struct SafetensorsItem {
  std::string name;
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
};

// Writes by falling element size, then by name (the format's own order); the header is
// padded to 8 bytes with spaces. Metadata keys are sorted, so equal content gives equal
// bytes. Atomic.
void write_safetensors(const std::filesystem::path& path,
                       std::vector<SafetensorsItem> items,
                       const std::map<std::string, std::string>& metadata);

}  // namespace flowmap
