#include "flowmap/formats/image.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"

// The only place that compiles stb_image; static, so that no other copy in the process
// can take its place. PNGs are written with zlib below, which packs better.
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
// Zeroed memory: a JPEG may leave tables undefined and blocks unwritten, and stb_image
// would index by, and hand out, whatever was there.
#define STBI_MALLOC(size) std::calloc(1, size)
#define STBI_REALLOC(block, size) std::realloc(block, size)
#define STBI_FREE(block) std::free(block)
#include <stb/stb_image.h>

namespace flowmap {
namespace {

constexpr std::uint64_t kMaxImagePixels = std::uint64_t{1} << 28;
constexpr std::string_view kPngSignature = "\x89PNG\r\n\x1a\n";
// Scans of a progressive JPEG cost a pass over the picture each. Encoders use about ten.
constexpr int kMaxJpegScans = 256;

std::uint32_t image_number(std::span<const std::byte> bytes, std::size_t at, int width) {
  std::uint32_t value = 0;
  for (int i = 0; i < width; ++i)
    value = value << 8 | std::to_integer<std::uint32_t>(bytes[at + i]);
  return value;
}

std::string_view image_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool is_png(std::span<const std::byte> bytes) {
  return image_text(bytes).substr(0, kPngSignature.size()) == kPngSignature;
}

// The size that a header claims, held against what `packed` bytes can hold at most
// (`per_byte` pixels each), before a decoder takes memory for it.
void check_image_size(std::uint64_t width, std::uint64_t height, std::uint64_t packed,
                      std::uint64_t per_byte, std::size_t at, const std::string& name) {
  const std::string got = std::to_string(width) + "x" + std::to_string(height);
  if (width == 0 || height == 0) throw DataError(name, at, "a picture size above 0", got);
  if (width * height > kMaxImagePixels)
    throw DataError(name, at, "at most 2^28 pixels", got);
  if (width * height > packed * per_byte)
    throw DataError(name, at,
                    "a picture that " + std::to_string(packed) + " packed bytes can hold",
                    got);
}

// Calls visit(type, offset, payload) for every chunk up to IEND, after checking that it
// lies in the file and that its CRC is right: stb_image checks neither CRCs nor the end.
template <class Visit>
void walk_png(std::span<const std::byte> bytes, const std::string& name, Visit visit) {
  if (!is_png(bytes)) throw DataError(name, 0, "the signature of a PNG", "other bytes");
  std::size_t at = kPngSignature.size();
  for (bool first = true;; first = false) {
    if (bytes.size() - at < 12)
      throw DataError(name, at, "a chunk, up to IEND", "the end of the file");
    const std::uint32_t length = image_number(bytes, at, 4);
    if (length > bytes.size() - at - 12)
      throw DataError(name, at, "a chunk inside the file",
                      "a length of " + std::to_string(length));
    const auto body = bytes.subspan(at + 4, std::size_t{4} + length);
    const std::string_view type = image_text(body.first(4));
    const auto crc = static_cast<std::uint32_t>(crc32_z(
        crc32(0, nullptr, 0), reinterpret_cast<const Bytef*>(body.data()), body.size()));
    const std::uint32_t stored = image_number(bytes, at + 8 + length, 4);
    if (crc != stored)
      throw DataError(name, at + 8 + length, "CRC " + std::to_string(crc),
                      std::to_string(stored));
    if (first != (type == "IHDR") || (first && length != 13))
      throw DataError(name, at, "one IHDR chunk of 13 bytes, at the beginning",
                      first ? "another chunk" : "a second one");
    visit(type, at, body.subspan(4));
    if (type == "IEND") return;
    at += std::size_t{12} + length;
  }
}

void check_png(std::span<const std::byte> bytes, const std::string& name) {
  std::uint64_t width = 0, height = 0, packed = 0;
  walk_png(bytes, name,
           [&](std::string_view type, std::size_t, std::span<const std::byte> payload) {
             if (type == "IHDR") {
               width = image_number(payload, 0, 4);
               height = image_number(payload, 4, 4);
             }
             if (type == "IDAT") packed += payload.size();
           });
  // Deflate packs at most 1032 to 1, and a byte holds at most eight pixels.
  check_image_size(width, height, packed + 1, 1032 * 8, 16, name);
}

// The tables of a DHT segment of `length` bytes at `at`. stb_image writes past the end of
// its own for more than 256 codes.
void check_jpeg_tables(std::span<const std::byte> bytes, std::size_t at,
                       std::size_t length, const std::string& name) {
  const std::size_t end = at + length;
  for (at += 2; at < end;) {
    if (end - at < 17) throw DataError(name, at, "17 bytes of code counts", "fewer");
    std::size_t codes = 0;
    for (int i = 1; i <= 16; ++i) codes += std::to_integer<std::size_t>(bytes[at + i]);
    if (codes > 256 || codes > end - at - 17)
      throw DataError(name, at, "at most 256 Huffman codes inside the segment",
                      std::to_string(codes));
    at += 17 + codes;
  }
}

// Walks the markers up to EOI for what stb_image does not bound: the size, the Huffman
// tables, the number of scans.
void check_jpeg(std::span<const std::byte> bytes, const std::string& name) {
  std::size_t at = 2;
  int scans = 0;
  bool frame = false;
  for (;;) {
    while (at + 1 < bytes.size() && bytes[at] == std::byte{0xFF} &&
           bytes[at + 1] == std::byte{0xFF})
      ++at;  // fill bytes
    if (bytes.size() - at < 2)
      throw DataError(name, at, "a JPEG marker, up to EOI", "the end of the file");
    const int marker = std::to_integer<int>(bytes[at + 1]);
    if (bytes[at] != std::byte{0xFF} || marker == 0)
      throw DataError(name, at, "a JPEG marker", "other bytes");
    if (marker == 0xD9) break;
    if (marker >= 0xD0 && marker <= 0xD8)
      throw DataError(name, at, "a JPEG segment", "a marker that has none");
    if (bytes.size() - at < 4)
      throw DataError(name, at, "the length of a segment", "the end of the file");
    const std::size_t length = image_number(bytes, at + 2, 2);
    if (length < 2 || length > bytes.size() - at - 2)
      throw DataError(name, at + 2, "a segment inside the file",
                      "a length of " + std::to_string(length));
    if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 &&
        marker != 0xCC) {
      if (frame) throw DataError(name, at, "one frame", "a second one");
      if (length < 8) throw DataError(name, at, "a frame header", "a shorter segment");
      frame = true;
      // Each 8x8 block takes a bit or more; a component may be subsampled 4 by 4.
      check_image_size(image_number(bytes, at + 7, 2), image_number(bytes, at + 5, 2),
                       bytes.size(), 8 * 64 * 16, at + 5, name);
    }
    if (marker == 0xC4) check_jpeg_tables(bytes, at + 2, length, name);
    at += 2 + length;
    if (marker != 0xDA) continue;
    if (++scans > kMaxJpegScans) throw DataError(name, at, "at most 256 scans", "more");
    // Entropy-coded bytes: FF is followed by 00, by a restart marker, or ends them.
    while (at + 1 < bytes.size()) {
      const auto next = std::to_integer<int>(bytes[at + 1]);
      if (bytes[at] == std::byte{0xFF} && next != 0 && !(next >= 0xD0 && next <= 0xD7))
        break;
      ++at;
    }
  }
  if (!frame || scans == 0)
    throw DataError(name, at, "a frame and a scan before EOI", "none");
}

Image gray_alpha_to_rgba(const std::uint8_t* pixels, int width, int height) {
  Image image{width, height, 4, {}};
  const std::size_t count = static_cast<std::size_t>(width) * height;
  image.pixels.resize(count * 4);
  for (std::size_t i = 0; i < count; ++i) {
    std::fill_n(&image.pixels[4 * i], 3, pixels[2 * i]);
    image.pixels[4 * i + 3] = pixels[2 * i + 1];
  }
  return image;
}

void check_image(const Image& image, const char* what) {
  FM_CHECK(image.width > 0 && image.height > 0 &&
               (image.channels == 1 || image.channels == 3 || image.channels == 4),
           what, ": needs 1, 3 or 4 channels and a size above 0, got ", image.width, "x",
           image.height, "x", image.channels);
  FM_CHECK(image.pixels.size() ==
               static_cast<std::size_t>(image.width) * image.height * image.channels,
           what, ": ", image.width, "x", image.height, "x", image.channels, " with ",
           image.pixels.size(), " bytes");
}

}  // namespace

Image decode_image(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.size() > std::size_t{1} << 30)
    throw DataError(name, {}, "a picture of at most 2^30 bytes",
                    std::to_string(bytes.size()));
  if (is_png(bytes)) {
    check_png(bytes, name);
  } else if (image_text(bytes).substr(0, 2) == "\xFF\xD8") {
    check_jpeg(bytes, name);
  } else {
    throw DataError(name, 0, "a PNG or JPEG picture",
                    bytes.empty() ? "an empty file" : "a file that begins otherwise");
  }
  int width = 0, height = 0, channels = 0;
  const std::unique_ptr<stbi_uc, decltype(&stbi_image_free)> pixels(
      stbi_load_from_memory(reinterpret_cast<const stbi_uc*>(bytes.data()),
                            static_cast<int>(bytes.size()), &width, &height, &channels,
                            0),
      &stbi_image_free);
  if (!pixels) {
    const char* why = stbi_failure_reason();
    throw DataError(name, {}, "a picture without damage", why ? why : "damage");
  }
  if (channels == 2) return gray_alpha_to_rgba(pixels.get(), width, height);
  const std::size_t size = static_cast<std::size_t>(width) * height * channels;
  return {width, height, channels, {pixels.get(), pixels.get() + size}};
}

Image read_image(const std::filesystem::path& path) {
  const MappedFile file(path);
  return decode_image(file.bytes(), path.string());
}

namespace {

int png_paeth(int left, int up, int corner) {
  const int p = left + up - corner;
  const int a = std::abs(p - left), b = std::abs(p - up), c = std::abs(p - corner);
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

// Filter type 0..4 of the PNG specification (section 9) applied to one row.
void png_filter_row(int type, const std::uint8_t* row, const std::uint8_t* above,
                    std::size_t size, std::size_t channels, std::uint8_t* out) {
  for (std::size_t i = 0; i < size; ++i) {
    const int left = i >= channels ? row[i - channels] : 0;
    const int up = above ? above[i] : 0;
    const int corner = above && i >= channels ? above[i - channels] : 0;
    const int predicted = type == 0   ? 0
                          : type == 1 ? left
                          : type == 2 ? up
                          : type == 3 ? (left + up) / 2
                                      : png_paeth(left, up, corner);
    out[i] = static_cast<std::uint8_t>(row[i] - predicted);
  }
}

// Each row behind its filter's number; the filter whose output, read as signed, has the
// least sum of magnitudes (the specification's heuristic). Where the rows will only be
// stored, none.
std::vector<std::uint8_t> png_filter_rows(const Image& image, bool stored) {
  const std::size_t channels = static_cast<std::size_t>(image.channels);
  const std::size_t size = static_cast<std::size_t>(image.width) * channels;
  std::vector<std::uint8_t> out((size + 1) * image.height), trial(size);
  for (int y = 0; y < image.height; ++y) {
    const std::uint8_t* row = image.pixels.data() + size * y;
    std::uint8_t* const to = out.data() + (size + 1) * y;
    if (stored) {
      std::copy_n(row, size, to + 1);
      continue;
    }
    std::uint64_t least = ~std::uint64_t{0};
    for (int type = 0; type < 5; ++type) {
      png_filter_row(type, row, y ? row - size : nullptr, size, channels, trial.data());
      std::uint64_t sum = 0;
      for (const std::uint8_t v : trial) sum += v < 128 ? v : 256 - v;
      if (sum >= least) continue;
      least = sum;
      to[0] = static_cast<std::uint8_t>(type);
      std::copy(trial.begin(), trial.end(), to + 1);
    }
  }
  return out;
}

void png_put_number(std::string& to, std::uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) to += static_cast<char>(value >> shift);
}

void png_put_chunk(std::string& to, std::string_view type, std::string_view payload) {
  FM_CHECK(payload.size() <= 0x7FFFFFFF, "PNG: a chunk of ", payload.size(), " bytes");
  png_put_number(to, static_cast<std::uint32_t>(payload.size()));
  const std::size_t start = to.size();
  to += type;
  to += payload;
  png_put_number(
      to, static_cast<std::uint32_t>(crc32_z(
              crc32(0, nullptr, 0), reinterpret_cast<const Bytef*>(to.data()) + start,
              to.size() - start)));
}

std::string pack_png_rows(const std::vector<std::uint8_t>& rows, int level) {
  uLongf size = compressBound(rows.size());
  std::string packed(size, '\0');
  const int status = compress2(reinterpret_cast<Bytef*>(packed.data()), &size,
                               rows.data(), rows.size(), level);
  FM_CHECK(status == Z_OK, "PNG: zlib failed with ", status);
  packed.resize(size);
  return packed;
}

}  // namespace

std::vector<std::byte> encode_png(const Image& image,
                                  const std::map<std::string, std::string>& texts,
                                  int level) {
  FM_CHECK(level >= -1 && level <= 9, "PNG: compression level ", level);
  check_image(image, "PNG");
  std::string png(kPngSignature), header;
  png_put_number(header, static_cast<std::uint32_t>(image.width));
  png_put_number(header, static_cast<std::uint32_t>(image.height));
  header += '\x08';  // bits a sample
  header += image.channels == 1   ? '\0'
            : image.channels == 3 ? '\2'
                                  : '\6';  // colour type
  header.append(3, '\0');                  // no interlace
  png_put_chunk(png, "IHDR", header);
  for (const auto& [keyword, text] : texts) {
    const auto printable = [](char c) {
      const auto letter = static_cast<unsigned char>(c);
      return (letter >= 32 && letter <= 126) || letter >= 161;
    };
    FM_CHECK(keyword.size() >= 1 && keyword.size() <= 79 &&
                 std::all_of(keyword.begin(), keyword.end(), printable),
             "PNG: the keyword '", keyword.substr(0, 80),
             "' needs 1 to 79 printable latin-1 characters");
    FM_CHECK(text.find('\0') == std::string::npos, "PNG: the text under '", keyword,
             "' holds a zero byte");
    png_put_chunk(png, "tEXt", keyword + '\0' + text);
  }
  // A chunk holds 2^31 - 1 bytes; shorter ones let a reader show progress.
  const std::string packed = pack_png_rows(png_filter_rows(image, level == 0), level);
  constexpr std::size_t kPiece = std::size_t{1} << 24;
  for (std::size_t at = 0; at < packed.size(); at += kPiece)
    png_put_chunk(png, "IDAT", std::string_view(packed).substr(at, kPiece));
  png_put_chunk(png, "IEND", "");
  const auto bytes = std::as_bytes(std::span(png));
  return {bytes.begin(), bytes.end()};
}

void write_png(const std::filesystem::path& path, const Image& image,
               const std::map<std::string, std::string>& texts) {
  write_file_atomic(path, std::span<const std::byte>(encode_png(image, texts)));
}

std::map<std::string, std::string> read_png_texts(std::span<const std::byte> bytes,
                                                  const std::string& name) {
  std::map<std::string, std::string> texts;
  walk_png(
      bytes, name,
      [&](std::string_view type, std::size_t at, std::span<const std::byte> payload) {
        if (type != "tEXt") return;
        const std::string_view text = image_text(payload);
        const auto end = text.find('\0');
        if (end == std::string_view::npos || end == 0 || end > 79)
          throw DataError(name, at + 8, "a keyword of 1 to 79 bytes before a zero",
                          "none in a tEXt chunk");
        texts.emplace(text.substr(0, end), text.substr(end + 1));
      });
  return texts;
}

Image make_grid(std::span<const Image> images, int columns) {
  FM_CHECK(!images.empty(), "image grid: no images");
  FM_CHECK(columns >= 1, "image grid: needs a column or more, got ", columns);
  const Image& first = images[0];
  for (const Image& image : images) {
    check_image(image, "image grid");
    FM_CHECK(image.width == first.width && image.height == first.height &&
                 image.channels == first.channels,
             "image grid: all images need one size, got ", first.width, "x", first.height,
             "x", first.channels, " and ", image.width, "x", image.height, "x",
             image.channels);
  }
  const std::uint64_t rows = (images.size() + columns - 1) / columns;
  const std::uint64_t width = std::uint64_t(first.width) * columns;
  const std::uint64_t height = std::uint64_t(first.height) * rows;
  FM_CHECK(width <= kMaxImagePixels && height <= kMaxImagePixels &&
               width * height <= kMaxImagePixels,
           "image grid: ", width, "x", height, " is over 2^28 pixels; use fewer images");
  Image grid{static_cast<int>(width), static_cast<int>(height), first.channels, {}};
  const std::size_t tile = static_cast<std::size_t>(first.width) * first.channels;
  const std::size_t line = tile * columns;
  grid.pixels.assign(line * height, 0);
  for (std::size_t i = 0; i < images.size(); ++i) {
    const std::size_t row = i / columns, column = i % columns;
    for (int y = 0; y < first.height; ++y)
      std::copy_n(images[i].pixels.data() + tile * y, tile,
                  grid.pixels.data() + line * (row * first.height + y) + tile * column);
  }
  return grid;
}

Image enlarge(const Image& image, int factor) {
  check_image(image, "enlarge");
  FM_CHECK(factor >= 1, "enlarge: needs a factor of 1 or more, got ", factor);
  const std::uint64_t width = std::uint64_t(image.width) * factor;
  const std::uint64_t height = std::uint64_t(image.height) * factor;
  FM_CHECK(width <= kMaxImagePixels && height <= kMaxImagePixels &&
               width * height <= kMaxImagePixels,
           "enlarge: ", width, "x", height, " is over 2^28 pixels; use a smaller factor");
  Image large{static_cast<int>(width), static_cast<int>(height), image.channels, {}};
  const std::size_t channels = static_cast<std::size_t>(image.channels);
  large.pixels.reserve(width * height * channels);
  for (std::uint64_t y = 0; y < height; ++y)
    for (std::uint64_t x = 0; x < width; ++x) {
      const std::size_t from = (y / factor * image.width + x / factor) * channels;
      large.pixels.insert(large.pixels.end(), image.pixels.begin() + from,
                          image.pixels.begin() + from + channels);
    }
  return large;
}

}  // namespace flowmap
