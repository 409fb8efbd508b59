// Every reader on a valid sample cut at each byte and with each byte changed: a cut one
// is refused with DataError, a changed one is refused or read, and nothing crashes or
// hangs.
#include <gtest/gtest.h>
#include <zlib.h>

#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STB_IMAGE_WRITE_STATIC
#define STBI_WRITE_NO_STDIO
#include <stb/stb_image_write.h>

#include <functional>

#include "flowmap/base/error.h"
#include "flowmap/formats/image.h"
#include "flowmap/formats/npy.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/formats/zip.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using testing::Bytes;
using Read = std::function<void(const Bytes&)>;

struct Reader {
  std::string name;
  std::function<Bytes()> sample;
  Read read;
};

Bytes numbers(std::size_t count) {
  Bytes bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = static_cast<std::byte>(i * 5 + 1);
  return bytes;
}

Image small_image(int channels) {
  Image image{6, 5, channels, {}};
  for (int i = 0; i < 30 * channels; ++i)
    image.pixels.push_back(static_cast<std::uint8_t>(i * i + 3));
  return image;
}

Bytes safetensors_sample() {
  const testing::ScratchFolder folder;
  const Bytes a = numbers(24), b = numbers(3);
  write_safetensors(folder / "x",
                    {{"weight", DType::F32, {2, 3}, a}, {"bias", DType::U8, {3}, b}},
                    {{"format", "pt"}, {"config", "{}"}});
  return testing::file_bytes(folder / "x");
}

Bytes zip_sample() {
  const testing::ScratchFolder folder;
  ZipWriter writer(folder / "x");
  writer.add("00000/img00000000.png", encode_png(small_image(1)));
  writer.add("dataset.json", "{\"labels\": null}");
  writer.commit();
  return testing::file_bytes(folder / "x");
}

Bytes npz_sample() {
  const testing::ScratchFolder folder;
  write_npz(folder / "x",
            {{"mu", {DType::F64, {3}, numbers(24)}},
             {"sigma", {DType::F32, {2, 2}, numbers(16)}}},
            {{"mode", "clean"}});
  return testing::file_bytes(folder / "x");
}

Bytes jpeg_sample() {
  Bytes bytes;
  const Image image = small_image(3);
  stbi_write_jpg_to_func(
      [](void* to, void* data, int size) {
        const auto* from = static_cast<const std::byte*>(data);
        static_cast<Bytes*>(to)->insert(static_cast<Bytes*>(to)->end(), from,
                                        from + size);
      },
      &bytes, image.width, image.height, image.channels, image.pixels.data(), 80);
  return bytes;
}

void read_npz_bytes(const Bytes& bytes) {
  static const testing::ScratchFolder folder;
  // Writing over a file makes some file systems flush it: a hundred times slower.
  std::filesystem::remove(folder / "x.npz");
  testing::put_file(folder / "x.npz", testing::to_text(bytes));
  read_npz(folder / "x.npz");
}

const std::vector<Reader>& readers() {
  static const std::vector<Reader> all = {
      {"safetensors", safetensors_sample,
       [](const Bytes& bytes) {
         const SafetensorsReader reader(bytes, "x");
         for (const auto& entry : reader.entries()) reader.read(entry.name);
       }},
      {"zip", zip_sample,
       [](const Bytes& bytes) {
         const ZipReader reader(bytes, "x", 1 << 20);
         for (std::size_t i = 0; i < reader.size(); ++i) reader.read(i);
       }},
      {"npy",
       [] {
         return format_npy({DType::I16, {2, 3}, numbers(12)});
       },
       [](const Bytes& bytes) { parse_npy(bytes, "x"); }},
      {"npy_text", [] { return format_npy_text("legacy"); },
       [](const Bytes& bytes) { parse_npy(bytes, "x"); }},
      {"npz", npz_sample, read_npz_bytes},
      {"png",
       [] {
         return encode_png(small_image(3), {{"seed", "1"}});
       },
       [](const Bytes& bytes) { decode_image(bytes, "x"); }},
      {"png_texts",
       [] {
         return encode_png(small_image(4), {{"seed", "1"}});
       },
       [](const Bytes& bytes) { read_png_texts(bytes, "x"); }},
      {"jpeg", jpeg_sample, [](const Bytes& bytes) { decode_image(bytes, "x"); }}};
  return all;
}

class Hostile : public ::testing::TestWithParam<Reader> {};

TEST_P(Hostile, CutAtEveryByte) {
  const Bytes good = GetParam().sample();
  ASSERT_NO_THROW(GetParam().read(good));
  for (std::size_t size = 0; size < good.size(); ++size) {
    // A buffer of its own size, so that a sanitizer sees the first byte beyond.
    const Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW(GetParam().read(cut), DataError) << size << " of " << good.size();
  }
}

TEST_P(Hostile, EveryByteChanged) {
  const Bytes good = GetParam().sample();
  int refused = 0;
  for (std::size_t i = 0; i < good.size(); ++i)
    for (const int flip : {0x01, 0x80, 0xFF}) {
      Bytes bad = good;
      bad[i] ^= static_cast<std::byte>(flip);
      try {
        GetParam().read(bad);
      } catch (const DataError&) {
        ++refused;
      }
    }
  EXPECT_GT(refused, 20);
}

TEST_P(Hostile, OtherReadersFiles) {
  for (const Reader& other : readers()) {
    const bool same_format = other.name.substr(0, 3) == GetParam().name.substr(0, 3) ||
                             (GetParam().name == "zip" && other.name == "npz") ||
                             (GetParam().name == "npz" && other.name == "zip") ||
                             (GetParam().name == "png" && other.name == "jpeg") ||
                             (GetParam().name == "jpeg" && other.name.starts_with("png"));
    if (same_format) continue;
    EXPECT_THROW(GetParam().read(other.sample()), DataError) << other.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Readers, Hostile, ::testing::ValuesIn(readers()),
                         [](const auto& reader) { return reader.param.name; });

}  // namespace
}  // namespace flowmap
