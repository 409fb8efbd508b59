// Random weights of the 2015 Inception in the files that other programs have of it.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "flowmap/formats/torch_file.h"
#include "flowmap/tensor_io.h"
#include "metrics/detectors/inception_network.h"

namespace flowmap::metrics::testing {

using Tensors = std::map<std::string, at::Tensor>;

// torchvision's names, batch norm apart, "fc" of 1008.
inline Tensors random_torchvision_weights() {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(20151205);
  Tensors tensors;
  const auto uniform = [&](std::vector<int64_t> shape, double low, double high) {
    return at::empty(shape, at::kFloat).uniform_(low, high, generator);
  };
  for (const InceptionConvolution& layer : inception_convolutions()) {
    const std::string name = layer.torchvision;
    const double reach = std::sqrt(6.0 / (layer.inputs * layer.height * layer.width));
    tensors[name + ".conv.weight"] =
        uniform({layer.outputs, layer.inputs, layer.height, layer.width}, -reach, reach);
    tensors[name + ".bn.weight"] = at::ones({layer.outputs});
    tensors[name + ".bn.bias"] = uniform({layer.outputs}, -0.2, 0.3);
    tensors[name + ".bn.running_mean"] = uniform({layer.outputs}, -0.2, 0.2);
    tensors[name + ".bn.running_var"] = uniform({layer.outputs}, 0.5, 1.5);
    tensors[name + ".bn.num_batches_tracked"] = at::zeros({}, at::kLong);
  }
  tensors["AuxLogits.conv0.conv.weight"] = uniform({128, 768, 1, 1}, -1, 1);
  tensors["fc.weight"] = uniform({1008, 2048}, -0.05, 0.05);
  tensors["fc.bias"] = uniform({1008}, -1, 1);
  return tensors;
}

// "mixed_4_tower_1_conv_2" -> "mixed_4.tower_1.conv_2", NVIDIA's modules.
inline std::string dotted_name(const InceptionConvolution& layer) {
  const std::string name = layer.name, block = layer.block;
  if (block.empty()) return name;
  std::string rest = name.substr(block.size() + 1);
  for (const std::string part : {"_mixed_conv", "_conv"}) {
    const std::size_t at = rest.find(part);
    if (at == std::string::npos) continue;
    rest.replace(at, part.size(), part == "_conv" ? ".conv" : ".mixed.conv");
    break;
  }
  return block + "." + rest;
}

// The same under NVIDIA's names.
inline Tensors nvidia_weights(const Tensors& torchvision) {
  Tensors tensors;
  for (const InceptionConvolution& layer : inception_convolutions()) {
    const std::string from = layer.torchvision, to = "layers." + dotted_name(layer);
    tensors[to + ".weight"] = torchvision.at(from + ".conv.weight");
    tensors[to + ".beta"] = torchvision.at(from + ".bn.bias");
    tensors[to + ".mean"] = torchvision.at(from + ".bn.running_mean");
    tensors[to + ".var"] = torchvision.at(from + ".bn.running_var");
  }
  tensors["output.weight"] = torchvision.at("fc.weight");
  tensors["output.bias"] = torchvision.at("fc.bias");
  return tensors;
}

// Our own file: batch norm folded in, up to and with `last_block`.
inline Tensors folded_weights(const Tensors& torchvision,
                              const std::string& last_block = "mixed_10") {
  Tensors tensors;
  std::string before;
  for (const InceptionConvolution& layer : inception_convolutions()) {
    if (before == last_block && before != layer.block) break;
    before = layer.block;
    const std::string from = layer.torchvision, to = layer.name;
    const at::Tensor scale =
        1 / (torchvision.at(from + ".bn.running_var").to(at::kDouble) + 1e-3).sqrt();
    tensors[to + ".weight"] =
        (torchvision.at(from + ".conv.weight") * scale.view({-1, 1, 1, 1}))
            .to(at::kFloat);
    tensors[to + ".bias"] = (torchvision.at(from + ".bn.bias") -
                             torchvision.at(from + ".bn.running_mean") * scale)
                                .to(at::kFloat);
  }
  if (last_block == "mixed_10") {
    tensors["logits.weight"] = torchvision.at("fc.weight");
    tensors["logits.bias"] = torchvision.at("fc.bias");
  }
  return tensors;
}

inline void write_torch(const std::filesystem::path& path, const Tensors& tensors) {
  std::map<std::string, HostTensor> hosts;
  std::vector<TorchItem> items;
  for (const auto& [name, tensor] : tensors) {
    const HostTensor& host = hosts.emplace(name, to_host(tensor)).first->second;
    items.push_back({name, host.dtype, host.shape, host.bytes});
  }
  write_torch_file(path, std::move(items));
}

}  // namespace flowmap::metrics::testing
