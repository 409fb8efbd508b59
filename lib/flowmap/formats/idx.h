// IDX, the format of MNIST and its relatives: 0 0 TYPE NDIM, NDIM big-endian u32 sizes,
// then the elements in row-major order. http://yann.lecun.com/exdb/mnist
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

#include "flowmap/base/dtype.h"

namespace flowmap {

// Unsigned bytes only (type 0x08), 1 to 4 dimensions; gzip is recognised by its magic,
// inflated no further than the header promises, and its CRC checked. The result has
// dtype U8. `name` stands for the path in errors. Throws DataError: wrong magic or type,
// truncation, sizes that the content does not bear out, bytes after the end.
HostTensor parse_idx(std::span<const std::byte> bytes, const std::string& name);
HostTensor read_idx(const std::filesystem::path& path);

}  // namespace flowmap
