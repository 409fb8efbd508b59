// Between torch tensors and the torch-free file layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flowmap/base/dtype.h"
#include "flowmap/formats/safetensors.h"

namespace flowmap {

at::ScalarType scalar_type(DType dtype);
DType file_dtype(at::ScalarType type);  // throws Error on types no file holds
at::Tensor to_tensor(const HostTensor& host);              // copies
HostTensor to_host(const at::Tensor& tensor);              // contiguous copy, on the CPU
at::Tensor read_tensor(const SafetensorsReader& reader, std::string_view name);
// A tensor on bytes that `keeps` holds, which must be writable memory: no copy. One where
// they are not aligned to their elements, and of bools, whose bytes a file may hold any of.
at::Tensor tensor_on(std::span<const std::byte> bytes, const std::vector<int64_t>& shape,
                     DType dtype, std::shared_ptr<const void> keeps);
// The tensor where it lies in the mapped file, which lives as long as the tensor does.
// Writing to it changes the memory, not the file. A copy where its place is not aligned to
// its elements.
at::Tensor mapped_tensor(const std::shared_ptr<const SafetensorsReader>& reader,
                         const SafetensorsEntry& entry);
void save_tensors(const std::filesystem::path& path,
                  const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata = {});
std::map<std::string, at::Tensor> load_tensors(const std::filesystem::path& path);

}  // namespace flowmap
