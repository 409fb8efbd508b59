// fuzz_seeds FOLDER: writes FOLDER/<target>/* with the toolkit's own writers.
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>

#include "flowmap/base/file.h"
#include "flowmap/formats/image.h"
#include "flowmap/formats/npy.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/formats/torch_file.h"
#include "flowmap/formats/zip.h"

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

// The opcodes of protocols 0 to 5 side by side.
std::string many_opcodes() {
  using namespace std::string_literals;
  return "\x80\x04\x95\x05\0\0\0\0\0\0\0}q\0(X\x01\0\0\0aq\1K\x05\x8C\x01"
         "bG\x3F\xF8\0\0\0\0\0\0U\x01"
         "c](I12\nL3L\nF1.5\nS'q'\nVz\\u00e9\nM\1\2J\1\2\3\4\x8A\1\xFF\x8B\1\0\0\0"
         "aN\x88\x89p9\ng9\neX\x01\0\0\0dctorch\nSize\n(K\1K\2t\x85RX\x01\0\0\0"
         "eB\x02\0\0\0hiX\1\0\0\0f\x8F(C\1x\x90X\1\0\0\0g\x8C\x0B"
         "collections\x8C\x0BOrderedDict\x93)\x81\x94U\1hNs}bX\1\0\0\0i(cdnnlib\nEasyDict\n"
         "No)\x86\x87u."s;
}

// A stream inside bytes, as EDM's pickles hold each tensor.
std::string edm_like() {
  using namespace std::string_literals;
  const std::string storage =
      "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"
      "0X\3\0\0\0cpuK\6NtQ"s;
  const std::string stream =
      "\x80\2\x8A\x0Al\xFC\x9C\x46\xF9 j\xA8P\x19.\x80\2M\xE9\3.\x80\2}X\x0D\0\0\0"
      "little_endian\x88s.\x80\2"s +
      storage + ".\x80\2]X\1\0\0\0" "0a.\6\0\0\0\0\0\0\0"s + std::string(24, 'f');
  const std::string tensor =
      "ctorch._utils\n_rebuild_parameter\nctorch._utils\n_rebuild_tensor_v2\n(ctorch."
      "storage\n_load_from_bytes\nC"s +
      static_cast<char>(stream.size()) + stream +
      "\x85RK\0K\3K\2\x86K\1K\3\x86\x89)tR\x88)\x87R"s;
  return "\x80\4}\x8C\3emactorch_utils.persistence\n_reconstruct_persistent_obj\n}\x8C\5"
         "state}(\x8C\x0B_parameters}\x8C\1w"s +
         tensor + "s\x8C\x08_buffers}\x8C\x08_modules}us\x85Rs."s;
}

// One file "a" of three bytes, and the end.
std::string tiny_tar() {
  std::string header(512, '\0');
  header.replace(0, 1, "a").replace(124, 11, "00000000003").replace(156, 1, "0");
  header.replace(148, 8, 8, ' ');
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  char digits[8];
  std::snprintf(digits, sizeof digits, "%06o", sum);
  header.replace(148, 7, digits, 7);
  return header + "abc" + std::string(509 + 1024, '\0');
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
  write_file_atomic(at("tar", "one"), tiny_tar());
  write_file_atomic(at("pickle", "opcodes"), many_opcodes());
  write_file_atomic(at("pickle", "edm"), edm_like());
  write_file_atomic(at("torch_file", "edm"), edm_like());
  write_torch_file(at("torch_file", "zip"),
                   std::vector<TorchSection>{
                       {"ema", {{"w", DType::F32, {2, 3}, weight}, {"b", DType::I8, {2}, bias}}}});
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
