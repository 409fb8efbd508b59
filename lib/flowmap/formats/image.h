// 8-bit pictures: decode (stb_image), encode (PNG through zlib), grids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace flowmap {

// Interleaved rows (HWC), 1, 3 or 4 channels.
struct Image {
  int width = 0, height = 0, channels = 0;
  std::vector<std::uint8_t> pixels;
};

// PNG or JPEG from memory. 16-bit and palette pictures become 8-bit; gray+alpha becomes
// RGBA. Larger than 2^28 pixels is refused, and so are a PNG with a wrong CRC and a JPEG
// without its end. Throws DataError.
Image decode_image(std::span<const std::byte> bytes, const std::string& name);
Image read_image(const std::filesystem::path& path);

// PNG with tEXt chunks (latin-1 keyword 1..79 characters -> text) before the pixels. The
// bytes of a text are stored as they are. `level`: zlib's 1 to 9, 0 to store the pixels
// as they are (fast, and larger), -1 for its default.
std::vector<std::byte> encode_png(const Image& image,
                                  const std::map<std::string, std::string>& texts = {},
                                  int level = -1);
void write_png(const std::filesystem::path& path, const Image& image,
               const std::map<std::string, std::string>& texts = {});
// The tEXt chunks of a PNG. Throws DataError on a file that is no PNG or is cut.
std::map<std::string, std::string> read_png_texts(std::span<const std::byte> bytes,
                                                  const std::string& name);

// `images` (all of one size and channel count) in rows of `columns`, no gap, the last row
// filled with black: EDM's grids.
Image make_grid(std::span<const Image> images, int columns);
// Nearest-neighbour enlargement by a whole factor.
Image enlarge(const Image& image, int factor);

}  // namespace flowmap
