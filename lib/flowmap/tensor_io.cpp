#include "flowmap/tensor_io.h"

#include <ATen/ATen.h>

#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"

namespace flowmap {

at::ScalarType scalar_type(DType dtype) {
  switch (dtype) {
    case DType::F64: return at::kDouble;
    case DType::F32: return at::kFloat;
    case DType::F16: return at::kHalf;
    case DType::BF16: return at::kBFloat16;
    case DType::I64: return at::kLong;
    case DType::I32: return at::kInt;
    case DType::I16: return at::kShort;
    case DType::I8: return at::kChar;
    case DType::U8: return at::kByte;
    case DType::BOOL: return at::kBool;
  }
  throw Error("unknown element type " + std::to_string(static_cast<int>(dtype)));
}

DType file_dtype(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return DType::F64;
    case at::kFloat: return DType::F32;
    case at::kHalf: return DType::F16;
    case at::kBFloat16: return DType::BF16;
    case at::kLong: return DType::I64;
    case at::kInt: return DType::I32;
    case at::kShort: return DType::I16;
    case at::kChar: return DType::I8;
    case at::kByte: return DType::U8;
    case at::kBool: return DType::BOOL;
    default:
      throw Error(std::string("tensors of type ") + at::toString(type) +
                  " cannot be stored; convert to float32 first");
  }
}

at::Tensor to_tensor(const HostTensor& host) {
  const auto size = checked_byte_size(host.shape, host.dtype, "tensor");
  FM_CHECK(static_cast<std::size_t>(size) == host.bytes.size(), "a tensor ",
           dtype_name(host.dtype), " ", shape_text(host.shape), " needs ", size,
           " bytes, got ", host.bytes.size());
  at::Tensor result =
      at::empty(host.shape, at::TensorOptions().dtype(scalar_type(host.dtype)));
  if (size > 0)
    std::memcpy(result.mutable_data_ptr(), host.bytes.data(), host.bytes.size());
  // A file may hold any byte; a bool in memory is 0 or 1.
  if (host.dtype == DType::BOOL) result = result.view(at::kByte).ne(0);
  return result;
}

HostTensor to_host(const at::Tensor& tensor) {
  FM_CHECK(tensor.defined(), "an undefined tensor cannot be stored");
  HostTensor host;
  host.dtype = file_dtype(tensor.scalar_type());
  host.shape = tensor.sizes().vec();
  const at::Tensor local = tensor.detach().to(at::kCPU).contiguous();
  host.bytes.resize(local.nbytes());
  if (!host.bytes.empty())
    std::memcpy(host.bytes.data(), local.const_data_ptr(), host.bytes.size());
  return host;
}

at::Tensor read_tensor(const SafetensorsReader& reader, std::string_view name) {
  return to_tensor(reader.read(name));
}

at::Tensor tensor_on(std::span<const std::byte> bytes, const std::vector<int64_t>& shape,
                     DType dtype, std::shared_ptr<const void> keeps) {
  const bool aligned =
      reinterpret_cast<std::uintptr_t>(bytes.data()) % dtype_size(dtype) == 0;
  if (dtype == DType::BOOL || bytes.empty() || !aligned)
    return to_tensor({dtype, shape, {bytes.begin(), bytes.end()}});
  void* data = const_cast<std::byte*>(bytes.data());
  return at::from_blob(data, shape, [keeps = std::move(keeps)](void*) {},
                       at::TensorOptions().dtype(scalar_type(dtype)));
}

at::Tensor mapped_tensor(const std::shared_ptr<const SafetensorsReader>& reader,
                         const SafetensorsEntry& entry) {
  // What a BOOL may hold is the reader's to check.
  if (entry.dtype == DType::BOOL) return read_tensor(*reader, entry.name);
  return tensor_on(reader->data(entry), entry.shape, entry.dtype, reader);
}

void save_tensors(const std::filesystem::path& path,
                  const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> kept;  // holds the bytes that the items point to
  std::vector<SafetensorsItem> items;
  for (const auto& [name, tensor] : tensors) {
    FM_CHECK(tensor.defined(), "tensor '", name,
             "' is undefined and cannot be stored in ", path.string());
    kept.push_back(tensor.detach().to(at::kCPU).contiguous());
    const at::Tensor& local = kept.back();
    items.push_back(
        {name,
         file_dtype(local.scalar_type()),
         local.sizes().vec(),
         {static_cast<const std::byte*>(local.const_data_ptr()), local.nbytes()}});
  }
  write_safetensors(path, std::move(items), metadata);
}

std::map<std::string, at::Tensor> load_tensors(const std::filesystem::path& path) {
  const SafetensorsReader reader(path);
  std::map<std::string, at::Tensor> tensors;
  for (const SafetensorsEntry& entry : reader.entries())
    tensors.emplace(entry.name, read_tensor(reader, entry.name));
  return tensors;
}

}  // namespace flowmap
