#include "flowmap/model_checksum.h"

#include <ATen/ATen.h>

#include <cstddef>
#include <map>
#include <span>

#include "flowmap/base/sha256.h"

namespace flowmap {

std::string model_checksum(const Model& model) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& item : model.named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : model.named_buffers()) tensors[item.key()] = item.value();
  std::string text;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor values = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
    text += name;
    for (const int64_t size : values.sizes()) text += " " + std::to_string(size);
    text += ":" + sha256_hex({static_cast<const std::byte*>(values.const_data_ptr()),
                              values.nbytes()}) + "\n";
  }
  return sha256_hex(std::as_bytes(std::span(text)));
}

}  // namespace flowmap
