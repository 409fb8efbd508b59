// Pictures: PNG and JPEG in every flavour that is promised, text chunks, grids.
#include "flowmap/formats/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cmath>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>

#include "flowmap/base/error.h"
#include "flowmap/base/rng.h"
#include "tests/support/reference.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using testing::big;
using testing::Bytes;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Image noise_image(int width, int height, int channels) {
  Image image{width, height, channels, {}};
  image.pixels.resize(static_cast<std::size_t>(width) * height * channels);
  std::vector<std::uint32_t> words(image.pixels.size());
  philox_words(1, 2, 3, words);
  for (std::size_t i = 0; i < words.size(); ++i)
    image.pixels[i] = static_cast<std::uint8_t>(words[i]);
  return image;
}

Image smooth_image(int width, int height, int channels) {
  Image image{width, height, channels, {}};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < channels; ++c)
        image.pixels.push_back(static_cast<std::uint8_t>(3 * x + 2 * y + 40 * c));
  return image;
}

std::string chunk(const std::string& type, const std::string& payload) {
  const std::string body = type + payload;
  return big(payload.size(), 4) + body +
         big(crc32(0, reinterpret_cast<const Bytef*>(body.data()),
                   static_cast<uInt>(body.size())),
             4);
}

std::string packed(const std::string& rows) {
  uLongf size = compressBound(rows.size());
  std::string out(size, '\0');
  compress(reinterpret_cast<Bytef*>(out.data()), &size,
           reinterpret_cast<const Bytef*>(rows.data()), rows.size());
  out.resize(size);
  return out;
}

const std::string kSignature = "\x89PNG\r\n\x1a\n";

// A PNG from its parts. `middle` goes between IHDR and IDAT.
Bytes png(unsigned width, unsigned height, int depth, int colour, const std::string& rows,
          const std::string& middle = "") {
  return testing::to_bytes(
      kSignature +
      chunk("IHDR", big(width, 4) + big(height, 4) + static_cast<char>(depth) +
                        static_cast<char>(colour) + std::string(3, '\0')) +
      middle + chunk("IDAT", packed(rows)) + chunk("IEND", ""));
}

std::string refusal(const Bytes& bytes) {
  try {
    decode_image(bytes, "test.png");
  } catch (const DataError& error) {
    EXPECT_EQ(error.path(), "test.png");
    return error.what();
  }
  ADD_FAILURE() << "was read";
  return "";
}

Bytes jpeg(const Image& image, int quality = 90) {
  Bytes bytes;
  const auto take = [](void* to, void* data, int size) {
    const auto* from = static_cast<const std::byte*>(data);
    static_cast<Bytes*>(to)->insert(static_cast<Bytes*>(to)->end(), from, from + size);
  };
  stbi_write_jpg_to_func(take, &bytes, image.width, image.height, image.channels,
                         image.pixels.data(), quality);
  return bytes;
}

TEST(Image, PngRoundTripToTheBit) {
  for (const int channels : {1, 3, 4})
    for (const auto& [width, height] :
         {std::pair{1, 1}, {1, 17}, {17, 1}, {31, 33}, {64, 64}, {257, 3}})
      for (const bool smooth : {false, true}) {
        const Image image = smooth ? smooth_image(width, height, channels)
                                   : noise_image(width, height, channels);
        const Image read = decode_image(encode_png(image), "x");
        EXPECT_EQ(read.width, width);
        EXPECT_EQ(read.height, height);
        EXPECT_EQ(read.channels, channels);
        EXPECT_EQ(read.pixels, image.pixels);
      }
}

// Filters matter: waves pack much better with them than without.
TEST(Image, SmoothPicturesPackWell) {
  Image image{200, 200, 3, {}};
  std::string raw;
  for (int y = 0; y < 200; ++y)
    for (int x = 0; x < 600; ++x)
      raw += static_cast<char>(static_cast<std::uint8_t>(
          128 + 100 * std::sin(0.037 * x) * std::cos(0.051 * y)));
  for (const char c : raw) image.pixels.push_back(static_cast<std::uint8_t>(c));
  EXPECT_LT(encode_png(image).size(), packed(raw).size() * 3 / 4);
}

TEST(Image, FilesAndTexts) {
  const testing::ScratchFolder folder;
  const Image image = noise_image(5, 4, 3);
  const std::map<std::string, std::string> texts = {{"Software", "flowmap"},
                                                    {"seed", "7"},
                                                    {"empty", ""},
                                                    {"config", std::string(100000, 'c')}};
  write_png(folder / "x.png", image, texts);
  EXPECT_EQ(read_image(folder / "x.png").pixels, image.pixels);
  const Bytes bytes = testing::file_bytes(folder / "x.png");
  EXPECT_EQ(read_png_texts(bytes, "x"), texts);
  EXPECT_TRUE(read_png_texts(encode_png(image), "x").empty());
  const std::string file = testing::to_text(bytes);
  EXPECT_LT(file.find("tEXt"), file.find("IDAT"));
  EXPECT_THROW(encode_png(image, {{"", "x"}}), Error);
  EXPECT_THROW(encode_png(image, {{std::string(80, 'k'), "x"}}), Error);
  EXPECT_THROW(encode_png(image, {{"new\nline", "x"}}), Error);
  EXPECT_THROW(encode_png(image, {{"zero", std::string("a\0b", 3)}}), Error);
  EXPECT_THROW(read_png_texts(jpeg(image), "x"), DataError);
}

TEST(Image, PngFlavours) {
  using Pixels = std::vector<std::uint8_t>;
  const auto zero = std::string(1, '\0');
  // 16-bit gray keeps the high byte.
  EXPECT_EQ(decode_image(png(2, 1, 16, 0, zero + "\x12\x34\xFF\x01"), "x").pixels,
            (Pixels{0x12, 0xFF}));
  // One bit a pixel: 0 and 255.
  EXPECT_EQ(decode_image(png(3, 1, 1, 0, zero + "\xA0"), "x").pixels,
            (Pixels{255, 0, 255}));
  // Palette, then palette with transparency.
  const std::string palette = chunk("PLTE", "\x01\x02\x03\x0A\x0B\x0C");
  const Image colours = decode_image(png(2, 1, 8, 3, zero + "\x01" + zero, palette), "x");
  EXPECT_EQ(colours.channels, 3);
  EXPECT_EQ(colours.pixels, (Pixels{10, 11, 12, 1, 2, 3}));
  const Image clear = decode_image(
      png(2, 1, 8, 3, zero + "\x01" + zero, palette + chunk("tRNS", "\x80")), "x");
  EXPECT_EQ(clear.pixels, (Pixels{10, 11, 12, 255, 1, 2, 3, 128}));
  // Gray with alpha becomes RGBA.
  const Image gray = decode_image(png(2, 1, 8, 4, zero + "\x05\x06\x07\x08"), "x");
  EXPECT_EQ(gray.channels, 4);
  EXPECT_EQ(gray.pixels, (Pixels{5, 5, 5, 6, 7, 7, 7, 8}));
  // Pixels in two chunks.
  const std::string rows = packed(zero + "\x09");
  const Image split =
      decode_image(testing::to_bytes(kSignature +
                                     chunk("IHDR", big(1, 4) + big(1, 4) + "\x08" +
                                                       std::string(4, '\0')) +
                                     chunk("IDAT", rows.substr(0, 3)) +
                                     chunk("IDAT", rows.substr(3)) + chunk("IEND", "")),
                   "x");
  EXPECT_EQ(split.pixels, Pixels{9});
}

TEST(Image, Jpeg) {
  for (const auto& [width, height] : {std::pair{1, 1}, {16, 16}, {37, 21}}) {
    const Image image = smooth_image(width, height, 3);
    const Image read = decode_image(jpeg(image, 100), "x");
    ASSERT_EQ(read.channels, 3);
    ASSERT_EQ(read.pixels.size(), image.pixels.size());
    int worst = 0;
    for (std::size_t i = 0; i < image.pixels.size(); ++i)
      worst = std::max(worst, std::abs(read.pixels[i] - image.pixels[i]));
    EXPECT_LE(worst, 4);
  }
}

TEST(Image, RefusesDamage) {
  const Image image = noise_image(9, 7, 3);
  const Bytes good = encode_png(image);
  // Every single byte changed: signature, length, type, payload or CRC is wrong then.
  for (std::size_t i = 0; i < good.size(); ++i) {
    Bytes bad = good;
    bad[i] ^= std::byte{0x20};
    EXPECT_THROW(decode_image(bad, "x"), DataError) << i;
    EXPECT_THROW(read_png_texts(bad, "x"), DataError) << i;
  }
  refusal({});
  refusal(testing::to_bytes("GIF89a"));
  refusal(testing::to_bytes("BM"));
  refusal(png(2, 2, 8, 2, std::string(13, '\0')));  // a byte short
  refusal(png(1, 1, 8, 3, std::string(2, '\0')));   // no palette
  refusal(png(1, 1, 9, 0, std::string(2, '\0')));
  refusal(png(1, 1, 8, 5, std::string(2, '\0')));
  refusal(png(1, 1, 8, 0, std::string("\x09\x00", 2)));  // no such filter
  refusal(testing::to_bytes(kSignature + chunk("IEND", "")));
  refusal(testing::to_bytes(kSignature + chunk("IHDR", "short") + chunk("IEND", "")));
}

TEST(Image, RefusesHostileSizes) {
  for (const auto& [width, height] : {std::pair{0u, 1u},
                                      {1u, 0u},
                                      {0x80000000u, 1u},
                                      {1u << 15, 1u << 14},
                                      {0xFFFFFFFFu, 0xFFFFFFFFu},
                                      {1u << 28, 2u},
                                      {20000u, 10000u}})
    refusal(png(width, height, 8, 0, std::string(100, '\0')));
  EXPECT_THAT(refusal(png(1u << 15, 1u << 14, 8, 0, "")), HasSubstr("2^28"));
  Bytes bytes = jpeg(smooth_image(8, 8, 3));
  std::string text = testing::to_text(bytes);
  const auto frame = text.find("\xFF\xC0");
  ASSERT_NE(frame, std::string::npos);
  text.replace(frame + 5, 4, big(0xFFFFFFFF, 4));
  EXPECT_THAT(refusal(testing::to_bytes(text)), HasSubstr("2^28"));
  text.replace(frame + 5, 4, big(0x3FFF3FFF, 4));
  EXPECT_THAT(refusal(testing::to_bytes(text)), HasSubstr("can hold"));
  text.replace(frame + 5, 4, big(0, 4));
  refusal(testing::to_bytes(text));
}

// stb_image would write past its tables.
TEST(Image, RefusesTooManyHuffmanCodes) {
  std::string text = testing::to_text(jpeg(smooth_image(8, 8, 3)));
  const auto table = text.find("\xFF\xC4");
  text.insert(table, "\xFF\xC4" + big(2 + 17 + 300, 2) + std::string(1, '\0') +
                         std::string(2, '\x96') + std::string(14 + 300, '\0'));
  EXPECT_THAT(refusal(testing::to_bytes(text)), HasSubstr("at most 256 Huffman codes"));
}

// A scan that names Huffman tables nobody defined reads none of its memory's past.
TEST(Image, UndefinedTablesAreNotFollowed) {
  std::string text = testing::to_text(jpeg(smooth_image(8, 8, 3)));
  const auto scan = text.find("\xFF\xDA");
  ASSERT_NE(scan, std::string::npos);
  for (int component = 0; component < 3; ++component)
    text[scan + 6 + 2 * component] = '\x33';
  const auto decode = [&]() -> std::vector<std::uint8_t> {
    try {
      return decode_image(testing::to_bytes(text), "x").pixels;
    } catch (const DataError&) {
      return {};
    }
  };
  EXPECT_EQ(decode(), decode());
}

TEST(Image, RefusesTooManyScans) {
  std::string text = testing::to_text(jpeg(smooth_image(8, 8, 3)));
  const auto scan = text.find("\xFF\xDA");
  const std::string body = text.substr(scan, text.size() - 2 - scan);
  std::string many = text.substr(0, scan);
  for (int i = 0; i < 300; ++i) many += body;
  EXPECT_THAT(refusal(testing::to_bytes(many + "\xFF\xD9")), HasSubstr("256 scans"));
}

TEST(Image, Grid) {
  std::vector<Image> images;
  for (int i = 0; i < 3; ++i)
    images.push_back({1, 2, 1, {std::uint8_t(10 * i + 1), std::uint8_t(10 * i + 2)}});
  const Image grid = make_grid(images, 2);
  EXPECT_EQ(grid.width, 2);
  EXPECT_EQ(grid.height, 4);
  EXPECT_THAT(grid.pixels, ElementsAre(1, 11, 2, 12, 21, 0, 22, 0));
  EXPECT_EQ(make_grid(images, 5).width, 5);
  EXPECT_THROW(make_grid({}, 2), Error);
  EXPECT_THROW(make_grid(images, 0), Error);
  images.push_back(noise_image(2, 2, 1));
  EXPECT_THROW(make_grid(images, 2), Error);
  images.back() = {1, 2, 1, {1}};
  EXPECT_THROW(make_grid(images, 2), Error);
}

TEST(Image, Enlarge) {
  const Image image{2, 1, 3, {1, 2, 3, 4, 5, 6}};
  const Image large = enlarge(image, 2);
  EXPECT_EQ(large.width, 4);
  EXPECT_EQ(large.height, 2);
  EXPECT_THAT(large.pixels, ElementsAre(1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6,  //
                                        1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6));
  EXPECT_THROW(enlarge(image, 0), Error);
  EXPECT_THROW(enlarge(image, 2'000'000'000), Error);
}

TEST(Image, Reference) {
  const auto path = testing::reference_folder() / "metrics" / "convert" / "landscape.png";
  FM_NEED_FILE(path);
  for (const auto& item : std::filesystem::directory_iterator(path.parent_path()))
    if (item.path().extension() == ".png") {
      const Image image = read_image(item.path());
      const Image again = decode_image(encode_png(image), "x");
      EXPECT_EQ(again.pixels, image.pixels) << item.path();
    }
}

}  // namespace
}  // namespace flowmap
