// fuzz_seeds FOLDER: writes FOLDER/<target>/* with the toolkit's own writers.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

#include "flowmap/base/file.h"
#include "flowmap/base/image.h"
#include "flowmap/base/npy.h"
#include "flowmap/base/safetensors.h"
#include "flowmap/base/zip.h"

using namespace flowmap;

namespace {

std::vector<std::byte> counted(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 11);
  return bytes;
}

Image picture(int width, int height, int channels) {
  Image image{width, height, channels, {}};
  for (int i = 0; i < width * height * channels; ++i)
    image.pixels.push_back(static_cast<std::uint8_t>(i * i / 3));
  return image;
}

// A gray 8x8 baseline JPEG: SOI, a flat quantisation table, the frame, one code a
// table ("00" is no bits), the scan, EOI.
std::string tiny_jpeg() {
  const auto segment = [](char marker, const std::string& payload) {
    const std::size_t length = payload.size() + 2;
    return std::string{'\xFF', marker, static_cast<char>(length >> 8),
                       static_cast<char>(length)} +
           payload;
  };
  const std::string one_code = std::string("\0\x01", 2) + std::string(14, '\0') + '\0';
  return "\xFF\xD8" + segment('\xDB', '\0' + std::string(64, '\x01')) +
         segment('\xC0', std::string("\x08\0\x08\0\x08\x01\x01\x11\0", 9)) +
         segment('\xC4', '\0' + one_code) + segment('\xC4', '\x10' + one_code) +
         segment('\xDA', std::string("\x01\x01\0\0\x3F\0", 6)) + "\x0F\xFF\xD9";
}

void write_seeds(const std::filesystem::path& folder) {
  const auto at = [&](const std::string& target, const std::string& name) {
    make_directories(folder / target);
    return folder / target / name;
  };
  write_npy(at("npy", "f8"), {DType::F64, {3}, counted(24)});
  write_npy(at("npy", "u1"), {DType::U8, {2, 3, 1}, counted(6)});
  write_file_atomic(at("npy", "text"),
                    std::span<const std::byte>(format_npy_text("clean")));
  write_file_atomic(
      at("npy", "fortran"),
      std::string("\x93NUMPY\x02\0\x3D\0\0\0", 12) +
          "{'descr': '>u2', 'fortran_order': True, 'shape': (1, 2L), }  \n" + "abcd");
  write_npz(at("zip", "npz"), {{"mu", {DType::F32, {2}, counted(8)}}},
            {{"mode", "clean"}});
  ZipWriter archive(at("zip", "images"));
  archive.add("00000/img00000000.png", encode_png(picture(4, 4, 1)));
  archive.add("dataset.json", "{\"labels\":[[\"00000/img00000000.png\",6]]}");
  archive.commit();
  const auto weight = counted(24), bias = counted(2);
  write_safetensors(at("safetensors", "two"),
                    {{"w", DType::F32, {2, 3}, weight}, {"b", DType::I8, {2}, bias}},
                    {{"format", "pt"}});
  write_safetensors(at("safetensors", "empty"), {}, {});
  for (const int channels : {1, 3, 4})
    write_png(at("image", "png" + std::to_string(channels)), picture(9, 5, channels),
              {{"seed", "1"}});
  write_file_atomic(at("image", "jpeg"), tiny_jpeg());
  write_file_atomic(
      at("config", "nested"),
      "{\n  // a comment\n  \"trainer\": {\"batch\": 64, \"lr\": 1e-3,},\n"
      "  \"list\": [1, 2.5, \"x\", null, true], /* more */ \"s\": \"a\\u00e9\"\n}\n");
  write_file_atomic(at("config", "override"), "--trainer.batch=64");
  write_file_atomic(at("int_list", "range"), "1,2,5-10");
  write_file_atomic(at("int_list", "count"), "200Mi");
  write_file_atomic(at("int_list", "doubles"), "0,0.5,1e-3");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: fuzz_seeds FOLDER\n");
    return 2;
  }
  try {
    write_seeds(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz_seeds: %s\n", error.what());
    return 1;
  }
  return 0;
}
