// decode_image and read_png_texts: DataError, or a picture that its PNG gives back. Each
// PNG is tried as it is and with its CRCs put right, which the fuzzer could not guess.
#include <zlib.h>

#include <vector>

#include "flowmap/formats/image.h"
#include "tests/fuzz/fuzz_input.h"

using namespace flowmap;

namespace {

void read_picture(std::span<const std::byte> bytes) {
  fuzz::expect_only<DataError>([&] { read_png_texts(bytes, "fuzz.png"); });
  fuzz::expect_only<DataError>([&] {
    const Image image = decode_image(bytes, "fuzz.png");
    fuzz::require(image.pixels.size() ==
                  static_cast<std::size_t>(image.width) * image.height * image.channels);
    if (image.pixels.size() > 1 << 14) return;
    const Image again = decode_image(encode_png(image), "again.png");
    fuzz::require(again.channels == image.channels && again.pixels == image.pixels);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  read_picture(fuzz::as_bytes(data, size));
  if (!fuzz::as_text(data, size).starts_with("\x89PNG\r\n\x1a\n")) return 0;
  std::vector<std::uint8_t> repaired(data, data + size);
  for (std::size_t at = 8; size - at >= 12;) {
    const std::size_t length = std::size_t{repaired[at]} << 24 | repaired[at + 1] << 16 |
                               repaired[at + 2] << 8 | repaired[at + 3];
    if (length > size - at - 12) break;
    const auto crc = crc32_z(crc32(0, nullptr, 0), &repaired[at + 4], length + 4);
    for (int i = 0; i < 4; ++i)
      repaired[at + 8 + length + i] = static_cast<std::uint8_t>(crc >> (24 - 8 * i));
    at += 12 + length;
  }
  read_picture(fuzz::as_bytes(repaired.data(), size));
  return 0;
}
