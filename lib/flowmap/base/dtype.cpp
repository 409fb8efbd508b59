#include "flowmap/base/dtype.h"

#include <limits>

#include "flowmap/base/error.h"

namespace flowmap {

std::size_t dtype_size(DType dtype) {
  switch (dtype) {
    case DType::F64:
    case DType::I64:
      return 8;
    case DType::F32:
    case DType::I32:
      return 4;
    case DType::F16:
    case DType::BF16:
    case DType::I16:
      return 2;
    case DType::I8:
    case DType::U8:
    case DType::BOOL:
      return 1;
  }
  return 0;
}

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::F64: return "F64";
    case DType::F32: return "F32";
    case DType::F16: return "F16";
    case DType::BF16: return "BF16";
    case DType::I64: return "I64";
    case DType::I32: return "I32";
    case DType::I16: return "I16";
    case DType::I8: return "I8";
    case DType::U8: return "U8";
    case DType::BOOL: return "BOOL";
  }
  return "?";
}

std::int64_t checked_byte_size(std::span<const std::int64_t> shape, DType dtype,
                               std::string_view what) {
  std::int64_t count = static_cast<std::int64_t>(dtype_size(dtype));
  bool empty = false;
  for (const std::int64_t size : shape) {
    FM_CHECK(size >= 0, what, ": negative size in shape ", shape_text(shape));
    if (size == 0) empty = true;
  }
  if (empty) return 0;
  for (const std::int64_t size : shape) {
    FM_CHECK(count <= std::numeric_limits<std::int64_t>::max() / size, what, ": shape ",
             shape_text(shape), " has more bytes than 63 bits can count");
    count *= size;
  }
  return count;
}

std::int64_t HostTensor::numel() const {
  return checked_byte_size(shape, DType::U8, "tensor");
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace flowmap
