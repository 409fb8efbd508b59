#include "flowmap/formats/idx.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {

// An IDX file of this project's size; beyond it the header lies.
constexpr std::uint64_t kMaxIdxBytes = std::uint64_t{1} << 34;

struct IdxHeader {
  std::vector<std::int64_t> shape;
  std::uint64_t header_bytes = 0, content_bytes = 1;
};

// nullopt: more bytes are needed.
std::optional<IdxHeader> read_idx_header(std::span<const std::byte> bytes,
                                         const std::string& name) {
  const auto byte = [&](std::size_t i) { return std::to_integer<unsigned>(bytes[i]); };
  if (bytes.size() < 4) return std::nullopt;
  if (byte(0) != 0 || byte(1) != 0)
    throw DataError(name, 0, "an IDX file (two zero bytes, or gzip)",
                    format("%02x %02x", byte(0), byte(1)));
  if (byte(2) != 0x08)
    throw DataError(name, 2, "IDX type 0x08 (unsigned byte)", format("0x%02x", byte(2)));
  const unsigned dims = byte(3);
  if (dims < 1 || dims > 4)
    throw DataError(name, 3, "1 to 4 dimensions", std::to_string(dims));
  IdxHeader header;
  header.header_bytes = 4 + 4 * std::uint64_t{dims};
  if (bytes.size() < header.header_bytes) return std::nullopt;
  for (unsigned d = 0; d < dims; ++d) {
    std::uint64_t size = 0;
    for (unsigned k = 0; k < 4; ++k) size = size << 8 | byte(4 + 4 * d + k);
    // Both factors stay below 2^34, so the product fits.
    header.content_bytes *= size;
    if (header.content_bytes > kMaxIdxBytes)
      throw DataError(name, 4 + 4 * d, "at most 16 GiB of content",
                      "sizes whose product is larger");
    header.shape.push_back(static_cast<std::int64_t>(size));
  }
  return header;
}

[[noreturn]] void fail_idx_size(const IdxHeader& header, std::uint64_t got, bool more,
                                const std::string& name) {
  throw DataError(name, header.header_bytes + std::min(got, header.content_bytes),
                  std::to_string(header.content_bytes) + " bytes for shape " +
                      shape_text(header.shape),
                  more ? "more bytes after the end" : std::to_string(got) + " bytes");
}

// Inflates a whole gzip member. The header, read as soon as it is there, bounds what is
// accepted, so a small file cannot claim much memory.
std::vector<std::byte> inflate_idx(std::span<const std::byte> bytes,
                                   const std::string& name) {
  struct Stream : z_stream {
    Stream() : z_stream{} {}
    ~Stream() { inflateEnd(this); }
  } stream;
  FM_CHECK(inflateInit2(&stream, 15 + 16) == Z_OK, name, ": zlib does not start");
  std::vector<std::byte> out(64);
  std::optional<IdxHeader> header;
  std::size_t filled = 0, consumed = 0;
  for (;;) {
    // avail_in is 32 bits wide.
    const std::size_t slice = std::min<std::size_t>(bytes.size() - consumed, 1u << 30);
    stream.next_in = reinterpret_cast<Bytef*>(
        const_cast<std::byte*>(bytes.data() + consumed));
    stream.avail_in = static_cast<uInt>(slice);
    const std::size_t room = std::min<std::size_t>(out.size() - filled, 1u << 30);
    stream.next_out = reinterpret_cast<Bytef*>(out.data() + filled);
    stream.avail_out = static_cast<uInt>(room);
    const int status = inflate(&stream, Z_NO_FLUSH);
    consumed += slice - stream.avail_in;
    filled += room - stream.avail_out;
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
      throw DataError(name, consumed, "gzip data",
                      stream.msg ? stream.msg : "damage");
    if (!header) header = read_idx_header({out.data(), filled}, name);
    if (header && filled > header->header_bytes + header->content_bytes)
      fail_idx_size(*header, filled - header->header_bytes, true, name);
    if (status == Z_STREAM_END) break;
    if (stream.avail_out == 0) {
      std::size_t next = 2 * out.size();
      // One byte beyond the promise is enough to see that there is more.
      if (header)
        next = std::min<std::size_t>(next, header->header_bytes +
                                               header->content_bytes + 1);
      out.resize(std::max(next, filled + 1));
      continue;
    }
    if (consumed == bytes.size())
      throw DataError(name, consumed, "the rest of the gzip data", "end of file");
  }
  if (consumed != bytes.size())
    throw DataError(name, consumed, "end of file after the gzip data",
                    std::to_string(bytes.size() - consumed) + " more bytes");
  out.resize(filled);
  return out;
}

}  // namespace

HostTensor parse_idx(std::span<const std::byte> bytes, const std::string& name) {
  const bool gzip = bytes.size() >= 2 && bytes[0] == std::byte{0x1f} &&
                    bytes[1] == std::byte{0x8b};
  std::vector<std::byte> inflated;
  if (gzip) {
    inflated = inflate_idx(bytes, name);
    bytes = inflated;
  }
  const auto header = read_idx_header(bytes, name);
  if (!header) throw DataError(name, bytes.size(), "the IDX header", "end of file");
  const std::uint64_t content = bytes.size() - header->header_bytes;
  if (content != header->content_bytes)
    fail_idx_size(*header, content, content > header->content_bytes, name);
  HostTensor tensor;
  tensor.dtype = DType::U8;
  tensor.shape = header->shape;
  tensor.bytes.assign(bytes.begin() + static_cast<std::ptrdiff_t>(header->header_bytes),
                      bytes.end());
  return tensor;
}

HostTensor read_idx(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_idx(file.bytes(), path.string());
}

}  // namespace flowmap
