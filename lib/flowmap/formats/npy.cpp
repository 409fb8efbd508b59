#include "flowmap/formats/npy.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/zip.h"

static_assert(std::endian::native == std::endian::little,
              "the file formats are little-endian and are read by memcpy");

namespace flowmap {
namespace {

constexpr std::string_view kNpyMagic = "\x93NUMPY";
constexpr std::size_t kNpyMaxRank = 64;  // numpy's own limit

// What the header of an array says.
struct NpyHeader {
  std::string descr;
  bool fortran = false;
  std::vector<std::int64_t> shape;
  std::size_t data_offset = 0;
};

// Parses the Python literal {'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }:
// these three keys once each, in any order.
class NpyHeaderParser {
 public:
  NpyHeaderParser(std::string_view text, std::size_t offset, const std::string& name)
      : text_(text), offset_(offset), name_(name) {}

  NpyHeader parse() {
    NpyHeader header;
    bool descr = false, fortran = false, shape = false;
    const auto once = [&](bool& seen, const std::string& key) {
      if (seen) fail("'" + key + "' once", "it a second time");
      seen = true;
    };
    expect('{');
    while (!take('}')) {
      const std::string key = string();
      expect(':');
      if (key == "descr") {
        once(descr, key);
        header.descr = descr_value();
      } else if (key == "fortran_order") {
        once(fortran, key);
        header.fortran = boolean();
      } else if (key == "shape") {
        once(shape, key);
        header.shape = tuple();
      } else {
        fail("'descr', 'fortran_order' or 'shape'", "'" + key.substr(0, 100) + "'");
      }
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) fail("the end of the header", found());
    if (!descr || !fortran || !shape)
      fail("'descr', 'fortran_order' and 'shape'", "a header without one of them");
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& expected, const std::string& got) const {
    throw DataError(name_, offset_ + at_, expected + " in the header", got);
  }

  std::string found() const {
    if (at_ >= text_.size()) return "its end";
    const auto letter = static_cast<unsigned char>(text_[at_]);
    if (letter < 32 || letter > 126) return "byte " + std::to_string(letter);
    return std::string("'") + text_[at_] + "'";
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' ||
                                  text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }

  bool take(char wanted) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }

  void expect(char wanted) {
    if (!take(wanted)) fail(std::string("'") + wanted + "'", found());
  }

  std::string string() {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') fail("a quoted word", found());
    const auto end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) fail("a closing quote", "none");
    const std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }

  std::string descr_value() {
    skip_space();
    if (at_ < text_.size() && text_[at_] == '[')
      fail("one element type", "a structured type, which is not supported");
    return string();
  }

  bool boolean() {
    skip_space();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (text_.substr(at_, word.size()) != word) continue;
      at_ += word.size();
      return value;
    }
    fail("True or False", found());
  }

  // (), (3,), (3, 4), (3, 4,). A bare (3) is a number in Python and no shape.
  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> sizes;
    expect('(');
    while (!take(')')) {
      if (sizes.size() == kNpyMaxRank) fail("at most 64 dimensions", "more");
      sizes.push_back(size());
      if (take(',')) continue;
      if (sizes.size() == 1) fail("','", found());
      expect(')');
      break;
    }
    return sizes;
  }

  std::int64_t size() {
    skip_space();
    const std::size_t start = at_;
    std::int64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      const int digit = text_[at_] - '0';
      if (value > (std::numeric_limits<std::int64_t>::max() - digit) / 10)
        fail("a size below 2^63", "a larger one");
      value = value * 10 + digit;
      ++at_;
    }
    if (at_ == start) fail("a whole number", found());
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // Python 2's long
    return value;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t offset_;  // of the text in the file
  const std::string& name_;
};

NpyHeader read_npy_header(std::span<const std::byte> bytes, const std::string& name) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.substr(0, kNpyMagic.size()) != kNpyMagic)
    throw DataError(name, 0, "numpy's .npy signature", "other bytes");
  if (text.size() < 8) throw DataError(name, 6, "a version", "the end of the file");
  const int version = std::to_integer<int>(bytes[6]);
  if (version < 1 || version > 3 || bytes[7] != std::byte{0})
    throw DataError(
        name, 6, "version 1.0, 2.0 or 3.0",
        std::to_string(version) + "." + std::to_string(std::to_integer<int>(bytes[7])));
  const std::size_t width = version == 1 ? 2 : 4, start = 8 + width;
  if (text.size() < start)
    throw DataError(name, 8, "a header length", "the end of the file");
  std::size_t length = 0;
  for (std::size_t i = width; i-- > 0;)
    length = length << 8 | std::to_integer<std::size_t>(bytes[8 + i]);
  if (length > text.size() - start)
    throw DataError(name, 8,
                    "a header inside the " + std::to_string(text.size()) + " bytes",
                    "a length of " + std::to_string(length));
  NpyHeader header = NpyHeaderParser(text.substr(start, length), start, name).parse();
  header.data_offset = start + length;
  return header;
}

// How an element is stored and what it becomes.
struct NpyType {
  char kind = 'f';        // f, i, u, b, U
  std::int64_t size = 4;  // bytes of an element in the file
  bool swap = false;
  DType dtype = DType::F32;
};

// "<f8", ">i4", "|u1", "<U5", ...
NpyType npy_type(const std::string& descr, const std::string& name) {
  const auto refuse = [&]() -> NpyType {
    const bool object = descr.find('O') != std::string::npos;
    throw DataError(name, {}, "f2 f4 f8, i1 i2 i4 i8, u1 u2 u4 u8, b1 or U",
                    object
                        ? "Python objects (a pickle), which are never loaded; save the "
                          "array with a number type"
                        : "dtype '" + descr.substr(0, 100) + "'");
  };
  std::string_view rest = descr;
  char order = '=';
  if (!rest.empty() && std::string_view("<>|=").find(rest[0]) != std::string_view::npos) {
    order = rest[0];
    rest.remove_prefix(1);
  }
  NpyType type;
  type.swap = order == '>';
  if (rest == "?") rest = "b1";
  if (rest.empty()) return refuse();
  type.kind = rest[0];
  rest.remove_prefix(1);
  if (rest.empty() || rest.size() > 9 ||
      !std::all_of(rest.begin(), rest.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return refuse();
  type.size = std::stoll(std::string(rest));
  if (order == '|' && type.size != 1) return refuse();
  if (type.kind == 'U') {
    type.size *= 4;
    type.dtype = DType::U8;
    return type;
  }
  struct Known {
    char kind;
    std::int64_t size;
    DType dtype;
  };
  static constexpr Known kKnown[] = {
      {'f', 2, DType::F16}, {'f', 4, DType::F32}, {'f', 8, DType::F64},
      {'i', 1, DType::I8},  {'i', 2, DType::I16}, {'i', 4, DType::I32},
      {'i', 8, DType::I64}, {'u', 1, DType::U8},  {'u', 2, DType::I32},
      {'u', 4, DType::I64}, {'u', 8, DType::I64}, {'b', 1, DType::BOOL}};
  for (const auto& known : kKnown)
    if (known.kind == type.kind && known.size == type.size) {
      type.dtype = known.dtype;
      return type;
    }
  return refuse();
}

// Bytes the array takes. Sizes beside a zero must not overflow either.
std::uint64_t npy_data_bytes(const NpyHeader& header, std::int64_t element,
                             const std::string& name) {
  std::uint64_t total = static_cast<std::uint64_t>(std::max<std::int64_t>(element, 1));
  bool empty = element == 0;
  for (const std::int64_t size : header.shape) {
    if (size == 0) {
      empty = true;
      continue;
    }
    const auto count = static_cast<std::uint64_t>(size);
    if (total >
        static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / count)
      throw DataError(name, {}, "an array below 2^63 bytes",
                      "shape " + shape_text(header.shape));
    total *= count;
  }
  return empty ? 0 : total;
}

std::string npy_utf8(std::span<const std::byte> bytes, bool swap, std::size_t offset,
                     const std::string& name) {
  std::vector<std::uint32_t> points(bytes.size() / 4);
  if (!bytes.empty()) std::memcpy(points.data(), bytes.data(), bytes.size());
  if (swap)
    for (auto& point : points) point = __builtin_bswap32(point);
  while (!points.empty() && points.back() == 0) points.pop_back();  // numpy's padding
  std::string text;
  const auto tail = [&](std::uint32_t bits) {
    text += static_cast<char>(0x80 | (bits & 0x3F));
  };
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::uint32_t p = points[i];
    if (p > 0x10FFFF || (p >= 0xD800 && p < 0xE000))
      throw DataError(name, offset + 4 * i, "a Unicode character", std::to_string(p));
    if (p < 0x80) {
      text += static_cast<char>(p);
    } else if (p < 0x800) {
      text += static_cast<char>(0xC0 | p >> 6);
      tail(p);
    } else if (p < 0x10000) {
      text += static_cast<char>(0xE0 | p >> 12);
      tail(p >> 6);
      tail(p);
    } else {
      text += static_cast<char>(0xF0 | p >> 18);
      tail(p >> 12);
      tail(p >> 6);
      tail(p);
    }
  }
  return text;
}

// Elements of `size` bytes from column-major to row-major order.
std::vector<std::byte> npy_row_major(std::span<const std::byte> from,
                                     std::span<const std::int64_t> shape,
                                     std::size_t size) {
  std::vector<std::byte> to(from.size());
  if (from.empty()) return to;
  std::vector<std::size_t> stride(shape.size()), index(shape.size());
  std::size_t step = size;
  for (std::size_t d = 0; d < shape.size(); ++d) {
    stride[d] = step;
    step *= static_cast<std::size_t>(shape[d]);
  }
  std::size_t source = 0;
  for (std::size_t at = 0; at < to.size(); at += size) {
    std::memcpy(to.data() + at, from.data() + source, size);
    for (std::size_t d = shape.size(); d-- > 0;) {
      source += stride[d];
      if (++index[d] < static_cast<std::size_t>(shape[d])) break;
      source -= stride[d] * index[d];
      index[d] = 0;
    }
  }
  return to;
}

// Unsigned numbers into the next wider signed type; u8 stays in 64 bits and must fit.
template <class From, class To>
std::vector<std::byte> npy_widen(std::span<const std::byte> bytes, std::size_t offset,
                                 const std::string& name) {
  const std::size_t count = bytes.size() / sizeof(From);
  std::vector<std::byte> to(count * sizeof(To));
  for (std::size_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));
    if (!std::in_range<To>(value))
      throw DataError(
          name, {}, "numbers below 2^63 in the data from byte " + std::to_string(offset),
          std::to_string(value));
    const To wide = static_cast<To>(value);
    std::memcpy(to.data() + i * sizeof(To), &wide, sizeof(To));
  }
  return to;
}

}  // namespace

HostTensor parse_npy(std::span<const std::byte> bytes, const std::string& name) {
  const NpyHeader header = read_npy_header(bytes, name);
  const NpyType type = npy_type(header.descr, name);
  const std::uint64_t needed = npy_data_bytes(header, type.size, name);
  const auto data = bytes.subspan(header.data_offset);
  if (data.size() != needed)
    throw DataError(name, header.data_offset,
                    std::to_string(needed) + " bytes for shape " +
                        shape_text(header.shape) + " of '" + header.descr + "'",
                    std::to_string(data.size()));
  if (type.kind == 'U') {
    if (!header.shape.empty())
      throw DataError(name, {}, "a single text",
                      "an array of texts of shape " + shape_text(header.shape));
    const std::string text = npy_utf8(data, type.swap, header.data_offset, name);
    const auto span = std::as_bytes(std::span(text));
    return {
        DType::U8, {static_cast<std::int64_t>(text.size())}, {span.begin(), span.end()}};
  }
  const auto size = static_cast<std::size_t>(type.size);
  HostTensor tensor{type.dtype, header.shape, {}};
  if (header.fortran && header.shape.size() > 1)
    tensor.bytes = npy_row_major(data, header.shape, size);
  else
    tensor.bytes.assign(data.begin(), data.end());
  if (type.swap && size > 1)
    for (std::size_t at = 0; at < tensor.bytes.size(); at += size)
      std::reverse(tensor.bytes.begin() + at, tensor.bytes.begin() + at + size);
  if (type.kind == 'u' && size == 2)
    tensor.bytes =
        npy_widen<std::uint16_t, std::int32_t>(tensor.bytes, header.data_offset, name);
  if (type.kind == 'u' && size == 4)
    tensor.bytes =
        npy_widen<std::uint32_t, std::int64_t>(tensor.bytes, header.data_offset, name);
  if (type.kind == 'u' && size == 8)
    tensor.bytes =
        npy_widen<std::uint64_t, std::int64_t>(tensor.bytes, header.data_offset, name);
  if (type.kind == 'b')
    for (std::size_t i = 0; i < tensor.bytes.size(); ++i)
      if (std::to_integer<int>(tensor.bytes[i]) > 1)
        throw DataError(
            name,
            header.fortran ? std::optional<std::uint64_t>{} : header.data_offset + i,
            "0 or 1 as a truth value",
            std::to_string(std::to_integer<int>(tensor.bytes[i])));
  return tensor;
}

HostTensor read_npy(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_npy(file.bytes(), path.string());
}

std::map<std::string, HostTensor> read_npz(const std::filesystem::path& path) {
  constexpr std::string_view kEnding = ".npy";
  const ZipReader archive(path);
  std::map<std::string, HostTensor> arrays;
  for (std::size_t i = 0; i < archive.size(); ++i) {
    const std::string& name = archive.name(i);
    if (!name.ends_with(kEnding)) continue;
    const auto bytes = archive.read(i);
    arrays.emplace(name.substr(0, name.size() - kEnding.size()),
                   parse_npy(bytes, path.string() + ":" + name));
  }
  return arrays;
}

}  // namespace flowmap
