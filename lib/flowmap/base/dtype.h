// Element types of the file formats, and a tensor in host memory that knows no torch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flowmap {

enum class DType : std::uint8_t { F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL };

// Bytes of one element.
std::size_t dtype_size(DType dtype);
// The safetensors name: "F32", "BF16", "BOOL", ...
std::string_view dtype_name(DType dtype);

// Row-major tensor that owns its bytes (little-endian).
struct HostTensor {
  DType dtype = DType::F32;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;

  // Product of the shape. Throws Error on a negative size or on overflow.
  std::int64_t numel() const;
};

// Product of `shape` times the element size, with overflow guards.
// Throws Error naming `what` if it does not fit 63 bits or a size is negative.
std::int64_t checked_byte_size(std::span<const std::int64_t> shape, DType dtype,
                               std::string_view what);

// "[2, 3, 32, 32]"
std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace flowmap
