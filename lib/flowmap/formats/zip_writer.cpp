#include <zlib.h>

#include <algorithm>
#include <set>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/zip.h"

namespace flowmap {

// The writer streams: libzip would keep every entry in memory until it is closed, and a
// data set may be larger than that.
struct ZipWriter::Impl {
  explicit Impl(const std::filesystem::path& where) : path(where.string()), file(where) {}

  std::string path;
  AtomicFile file;
  std::uint64_t offset = 0;
  std::uint64_t entries = 0;
  std::string directory;  // central directory records so far
  std::set<std::string, std::less<>> names;

  void write(std::string_view text) {
    file.write(text);
    offset += text.size();
  }
};

namespace {

constexpr std::uint64_t kZip32Limit = 0xFFFFFFFFu;  // this value says "see ZIP64"
constexpr std::uint16_t kDosDate1980 = 1 << 5 | 1;  // 1 January, year 0 of DOS

void zip_put(std::string& to, std::uint64_t value, int width) {
  for (int i = 0; i < width; ++i) to += static_cast<char>(value >> (8 * i) & 0xFF);
}

std::uint64_t zip32(std::uint64_t value) { return std::min(value, kZip32Limit); }

// From "version needed" to "uncompressed size", the part both headers share.
void zip_put_entry(std::string& to, std::string_view name, std::uint32_t crc,
                   std::uint64_t size, bool zip64) {
  const bool ascii = std::all_of(name.begin(), name.end(),
                                 [](char c) { return static_cast<signed char>(c) >= 0; });
  zip_put(to, zip64 ? 45 : 20, 2);
  zip_put(to, ascii ? 0 : 0x0800, 2);  // bit 11: the name is UTF-8
  zip_put(to, 0, 2);                   // stored
  zip_put(to, 0, 2);                   // 00:00:00
  zip_put(to, kDosDate1980, 2);
  zip_put(to, crc, 4);
  zip_put(to, zip32(size), 4);
  zip_put(to, zip32(size), 4);
}

}  // namespace

ZipWriter::ZipWriter(const std::filesystem::path& path)
    : impl_(std::make_unique<Impl>(path)) {}
ZipWriter::~ZipWriter() = default;

void ZipWriter::add(std::string_view name, std::span<const std::byte> content,
                    std::size_t alignment) {
  FM_CHECK(alignment >= 1 && alignment <= 4096, impl_->path,
           ": an alignment from 1 to 4096, got ", alignment);
  FM_CHECK(!name.empty() && name.size() <= 65535, impl_->path,
           ": an entry name needs 1 to 65535 bytes, got ", name.size());
  FM_CHECK(impl_->names.emplace(name).second, impl_->path, ": two entries are called '",
           name, "'");
  const auto crc = static_cast<std::uint32_t>(
      crc32_z(crc32(0, nullptr, 0), reinterpret_cast<const Bytef*>(content.data()),
              content.size()));
  const std::uint64_t size = content.size(), at = impl_->offset;
  const bool wide = size >= kZip32Limit, far = at >= kZip32Limit;

  std::string local;
  zip_put(local, 0x04034B50, 4);
  zip_put_entry(local, name, crc, size, wide);
  zip_put(local, name.size(), 2);
  // Padding stands in an extra field ("FB", as PyTorch's archives call it).
  const std::uint64_t wide_extra = wide ? 20 : 0;
  std::uint64_t pad_extra = 0;
  if (alignment > 1) {
    const std::uint64_t begin = at + 30 + name.size() + wide_extra + 4;
    pad_extra = 4 + (alignment - begin % alignment) % alignment;
  }
  zip_put(local, wide_extra + pad_extra, 2);
  local += name;
  if (wide) {
    zip_put(local, 0x0001, 2);
    zip_put(local, 16, 2);
    zip_put(local, size, 8);
    zip_put(local, size, 8);
  }
  if (pad_extra) {
    zip_put(local, 'F' | 'B' << 8, 2);
    zip_put(local, pad_extra - 4, 2);
    local.append(pad_extra - 4, 'Z');
  }
  impl_->write(local);
  if (!content.empty()) impl_->file.write(content);
  impl_->offset += size;

  std::string& directory = impl_->directory;
  const int extra = (wide ? 16 : 0) + (far ? 8 : 0);
  zip_put(directory, 0x02014B50, 4);
  zip_put(directory, 3 << 8 | 45, 2);  // made on Unix by version 4.5 of the specification
  zip_put_entry(directory, name, crc, size, wide || far);
  zip_put(directory, name.size(), 2);
  zip_put(directory, extra ? extra + 4 : 0, 2);
  zip_put(directory, 0, 2);               // comment
  zip_put(directory, 0, 2);               // disk
  zip_put(directory, 0, 2);               // internal attributes
  zip_put(directory, 0100644u << 16, 4);  // a regular file, rw-r--r--
  zip_put(directory, zip32(at), 4);
  directory += name;
  if (extra) {
    zip_put(directory, 0x0001, 2);
    zip_put(directory, static_cast<std::uint64_t>(extra), 2);
    if (wide) {
      zip_put(directory, size, 8);
      zip_put(directory, size, 8);
    }
    if (far) zip_put(directory, at, 8);
  }
  ++impl_->entries;
}

void ZipWriter::add(std::string_view name, std::string_view content,
                    std::size_t alignment) {
  add(name, std::as_bytes(std::span(content.data(), content.size())), alignment);
}

void ZipWriter::commit() {
  const std::uint64_t start = impl_->offset, entries = impl_->entries;
  const std::uint64_t length = impl_->directory.size();
  impl_->write(impl_->directory);
  std::string tail;
  if (entries >= 0xFFFF || start >= kZip32Limit || length >= kZip32Limit) {
    zip_put(tail, 0x06064B50, 4);
    zip_put(tail, 44, 8);  // bytes of this record after this field
    zip_put(tail, 3 << 8 | 45, 2);
    zip_put(tail, 45, 2);
    zip_put(tail, 0, 8);  // disks
    zip_put(tail, entries, 8);
    zip_put(tail, entries, 8);
    zip_put(tail, length, 8);
    zip_put(tail, start, 8);
    zip_put(tail, 0x07064B50, 4);
    zip_put(tail, 0, 4);
    zip_put(tail, start + length, 8);
    zip_put(tail, 1, 4);
  }
  zip_put(tail, 0x06054B50, 4);
  zip_put(tail, 0, 4);
  zip_put(tail, std::min<std::uint64_t>(entries, 0xFFFF), 2);
  zip_put(tail, std::min<std::uint64_t>(entries, 0xFFFF), 2);
  zip_put(tail, zip32(length), 4);
  zip_put(tail, zip32(start), 4);
  zip_put(tail, 0, 2);
  impl_->write(tail);
  impl_->file.commit();
}

}  // namespace flowmap
