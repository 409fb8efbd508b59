#include "flowmap/formats/tar.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string_view>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"

namespace flowmap {
namespace {

constexpr std::size_t kTarBlock = 512;
// A long name or a pax header.
constexpr std::uint64_t kMaxTarHeader = std::uint64_t{1} << 20;
// What zlib is handed at a time; its counters have 32 bits.
constexpr std::size_t kGzipSlice = std::size_t{1} << 30;

}  // namespace

// Bytes of a file in order, inflated where they are gzip (one member or several).
class TarInput {
 public:
  TarInput(std::span<const std::byte> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {
    gzip_ = is_gzip();
    if (gzip_)
      FM_CHECK(inflateInit2(&stream_, 15 + 16) == Z_OK, name_, ": zlib does not start");
  }
  ~TarInput() {
    if (gzip_) inflateEnd(&stream_);
  }
  TarInput(const TarInput&) = delete;
  TarInput& operator=(const TarInput&) = delete;

  // Fills `out` from its front; fewer bytes only at the end.
  std::size_t read(std::span<std::byte> out) {
    std::size_t filled = 0;
    while (filled < out.size()) {
      const std::size_t got =
          gzip_ ? inflate_some(out.subspan(filled)) : copy_some(out.subspan(filled));
      if (got == 0) break;
      filled += got;
    }
    at_ += filled;
    return filled;
  }
  std::uint64_t at() const { return at_; }
  const std::string& name() const { return name_; }
  bool gzip() const { return gzip_; }

 private:
  bool is_gzip() const {
    return bytes_.size() >= 2 && bytes_[0] == std::byte{0x1f} &&
           bytes_[1] == std::byte{0x8b};
  }
  std::size_t copy_some(std::span<std::byte> out) {
    const std::size_t count = std::min(out.size(), bytes_.size());
    std::copy_n(bytes_.begin(), count, out.begin());
    bytes_ = bytes_.subspan(count);
    return count;
  }
  std::size_t inflate_some(std::span<std::byte> out) {
    const std::size_t room = std::min(out.size(), kGzipSlice);
    while (!ended_) {
      const std::size_t slice = std::min(bytes_.size(), kGzipSlice);
      stream_.next_in =
          reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes_.data()));
      stream_.avail_in = static_cast<uInt>(slice);
      stream_.next_out = reinterpret_cast<Bytef*>(out.data());
      stream_.avail_out = static_cast<uInt>(room);
      const int status = inflate(&stream_, Z_NO_FLUSH);
      bytes_ = bytes_.subspan(slice - stream_.avail_in);
      const std::size_t made = room - stream_.avail_out;
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
        throw DataError(name_, at_, "gzip data", stream_.msg ? stream_.msg : "damage");
      if (status == Z_STREAM_END) {
        ended_ = bytes_.empty();
        if (!ended_ && !is_gzip())
          throw DataError(name_, at_ + made, "the end of the file after the gzip data",
                          std::to_string(bytes_.size()) + " more bytes");
        if (!ended_) inflateReset(&stream_);
      } else if (made == 0 && bytes_.empty()) {
        throw DataError(name_, at_, "the rest of the gzip data", "the end of the file");
      }
      if (made > 0) return made;
    }
    return 0;
  }

  std::span<const std::byte> bytes_;  // what is left
  std::string name_;
  z_stream stream_{};
  std::uint64_t at_ = 0;
  bool gzip_ = false, ended_ = false;
};

namespace {

using TarHeader = std::array<std::byte, kTarBlock>;

std::string_view tar_text(const TarHeader& header, std::size_t at, std::size_t size) {
  const std::string_view field(reinterpret_cast<const char*>(header.data()) + at, size);
  return field.substr(0, std::min(field.find('\0'), size));
}

// Octal digits, or after a byte 0x80 a big-endian number (GNU).
std::optional<std::uint64_t> tar_number(const TarHeader& header, std::size_t at,
                                        std::size_t size) {
  std::uint64_t value = 0;
  if (header[at] == std::byte{0x80}) {
    for (std::size_t i = 1; i < size; ++i) {
      if (value >> 55) return {};
      value = value << 8 | std::to_integer<std::uint64_t>(header[at + i]);
    }
    return value;
  }
  std::string_view text = tar_text(header, at, size);
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  if (text.empty()) return 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), value, 8);
  if (error != std::errc() || end != text.data() + text.size() || value >> 62) return {};
  return value;
}

// The sum of the header with blanks in the place of the sum; old programs added signed
// bytes.
bool tar_sum_is_right(const TarHeader& header) {
  std::uint64_t plain = 0;
  std::int64_t with_sign = 0;
  for (std::size_t i = 0; i < header.size(); ++i) {
    const auto each = i >= 148 && i < 156 ? std::uint8_t{' '}
                                          : std::to_integer<std::uint8_t>(header[i]);
    plain += each;
    with_sign += static_cast<std::int8_t>(each);
  }
  const auto stored = tar_number(header, 148, 8);
  return stored && (*stored == plain || static_cast<std::int64_t>(*stored) == with_sign);
}

}  // namespace

struct TarReader::Impl {
  explicit Impl(const std::filesystem::path& path)
      : file(std::in_place, path), input(file->bytes(), path.string()) {}
  Impl(std::span<const std::byte> bytes, std::string name)
      : input(bytes, std::move(name)) {}

  [[noreturn]] void fail(const std::string& expected, const std::string& got) const {
    throw DataError(input.name(), input.at(), expected, got);
  }

  // Content and the zeros up to a whole block.
  void skip(std::uint64_t count) {
    std::array<std::byte, 16384> bin;
    while (count > 0) {
      const std::size_t some = std::min<std::uint64_t>(count, bin.size());
      if (input.read(std::span(bin).first(some)) != some)
        fail(std::to_string(count) + " more bytes", "the end of the archive");
      count -= some;
    }
  }
  void skip_rest() {
    skip(left);
    skip(padding);
    left = padding = 0;
  }

  std::vector<std::byte> take(std::uint64_t most, const std::string& what) {
    if (left > most)
      fail("at most " + std::to_string(most) + " bytes of " + what, std::to_string(left));
    std::vector<std::byte> content;
    while (left > 0) {
      const std::size_t old = content.size();
      const std::size_t some =
          std::min<std::uint64_t>(left, std::max<std::size_t>(old, 65536));
      content.resize(old + some);
      if (input.read(std::span(content).subspan(old)) != some)
        fail(std::to_string(left) + " more bytes of " + what, "the end of the archive");
      left -= some;
    }
    skip_rest();
    return content;
  }

  // "LENGTH KEY=VALUE\n" again and again; of interest are path and size.
  void read_pax(std::string_view text) {
    while (!text.empty()) {
      std::uint64_t length = 0;
      const auto [end, error] =
          std::from_chars(text.data(), text.data() + text.size(), length);
      const auto digits = static_cast<std::size_t>(end - text.data());
      if (error != std::errc() || length > text.size() || length < digits + 3 ||
          text[digits] != ' ' || text[length - 1] != '\n')
        fail("pax records", "something else");
      const std::string_view record = text.substr(digits + 1, length - digits - 2);
      const std::size_t sign = record.find('=');
      if (sign == std::string_view::npos) fail("KEY=VALUE in a pax record", "no '='");
      const std::string_view key = record.substr(0, sign), value = record.substr(sign + 1);
      if (key == "path") long_name = value;
      if (key == "size") {
        std::uint64_t size = 0;
        const auto [stop, wrong] =
            std::from_chars(value.data(), value.data() + value.size(), size);
        if (wrong != std::errc() || stop != value.data() + value.size() || size >> 62)
          fail("a size in a pax record", "something else");
        pax_size = size;
      }
      if (key.starts_with("GNU.sparse"))
        fail("files without holes", "a GNU sparse file; pack it again without --sparse");
      text.remove_prefix(length);
    }
  }

  std::optional<TarEntry> next() {
    if (done) return {};
    skip_rest();
    long_name.clear();
    pax_size.reset();
    while (true) {
      TarHeader header;
      if (input.read(header) != kTarBlock)
        fail("a header, or a block of zeros at the end", "the end of the file");
      if (std::all_of(header.begin(), header.end(),
                      [](std::byte each) { return each == std::byte{0}; })) {
        done = true;
        // To the checksum of the gzip data.
        std::array<std::byte, 16384> bin;
        while (input.gzip() && input.read(bin) == bin.size()) continue;
        return {};
      }
      if (!tar_sum_is_right(header)) fail("the header of a tar archive", "a wrong sum");
      const auto size = tar_number(header, 124, 12);
      if (!size) fail("a size in the header", "something else");
      const char type = static_cast<char>(std::to_integer<unsigned char>(header[156]));
      // Of links, folders and devices the size counts nothing that is there.
      const bool has_content = type < '1' || type > '6';
      left = has_content ? (pax_size && type != 'x' ? *pax_size : *size) : 0;
      padding = (kTarBlock - left % kTarBlock) % kTarBlock;
      if (type == 'x' || type == 'L') {
        const std::vector<std::byte> content = take(kMaxTarHeader, "a long header");
        const std::string_view text(reinterpret_cast<const char*>(content.data()),
                                    content.size());
        if (type == 'x')
          read_pax(text);
        else
          long_name = text.substr(0, std::min(text.find('\0'), text.size()));
        continue;
      }
      if (type == 'S')
        fail("files without holes", "a GNU sparse file; pack it again without --sparse");
      if (type == '0' || type == '\0' || type == '7') {
        TarEntry entry{long_name, left};
        if (entry.name.empty()) {
          if (tar_text(header, 257, 5) == "ustar" && header[345] != std::byte{0} &&
              header[262] == std::byte{0})
            entry.name = std::string(tar_text(header, 345, 155)) + "/";
          entry.name += tar_text(header, 0, 100);
        }
        return entry;
      }
      skip_rest();
      // A long link or the global defaults belong to what follows, a folder does not.
      if (type != 'K' && type != 'g') long_name.clear(), pax_size.reset();
    }
  }

  std::optional<MappedFile> file;
  TarInput input;
  std::uint64_t left = 0, padding = 0;  // of the entry's content; zeros after it
  std::string long_name;
  std::optional<std::uint64_t> pax_size;
  bool done = false;
};

TarReader::TarReader(const std::filesystem::path& path)
    : impl_(std::make_unique<Impl>(path)) {}
TarReader::TarReader(std::span<const std::byte> bytes, std::string name)
    : impl_(std::make_unique<Impl>(bytes, std::move(name))) {}
TarReader::~TarReader() = default;
TarReader::TarReader(TarReader&&) noexcept = default;
TarReader& TarReader::operator=(TarReader&&) noexcept = default;

std::optional<TarEntry> TarReader::next() { return impl_->next(); }
std::vector<std::byte> TarReader::read(std::uint64_t max_bytes) {
  return impl_->take(max_bytes, "content");
}

}  // namespace flowmap
