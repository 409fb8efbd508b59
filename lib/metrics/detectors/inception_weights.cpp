#include "metrics/detectors/inception_weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/formats/torch_file.h"
#include "flowmap/tensor_io.h"

namespace flowmap::metrics {
namespace {

constexpr double kBatchNormEpsilon = 1e-3;
constexpr int64_t kLogits = 1008, kPooled = 2048;

// Names of the file with '_' for '.' and '/', and how to read what stands under them.
class InceptionFile {
 public:
  explicit InceptionFile(const std::filesystem::path& path) : path_(path.string()) {
    const MappedFile file(path);
    const auto bytes = file.bytes();
    if (TorchFile::looks_like(bytes)) {
      PickleOptions options = TorchFile::weights_options();
      // Modules of a TorchScript archive are objects of its own classes.
      options.allow = [](std::string_view module, std::string_view name) {
        return module == "__torch__" || module.starts_with("__torch__.") ||
               module == "torch.jit._pickle" || allow_weights_global(module, name);
      };
      torch_.emplace(path, std::move(options));
      entries_ = torch_->flatten({.key = "", .strip_prefixes = true});
      for (std::size_t i = 0; i < entries_.size(); ++i) add(entries_[i].name, i);
    } else if (bytes.size() > 8 && bytes[8] == std::byte{'{'}) {
      safetensors_.emplace(path);
      for (std::size_t i = 0; i < safetensors_->entries().size(); ++i)
        add(safetensors_->entries()[i].name, i);
    } else {
      throw DataError(path_, {},
                      "weights of the 2015 Inception: torch.save's file, a TorchScript "
                      "archive, a pickle or safetensors",
                      bytes.size() < 9 ? "a file of " + std::to_string(bytes.size()) +
                                             " bytes"
                                       : "another kind of file");
    }
  }

  const std::string& path() const { return path_; }
  const std::map<std::string, std::size_t>& names() const { return names_; }

  std::vector<int64_t> shape(const std::string& name) const {
    const std::size_t at = names_.at(name);
    return torch_ ? entries_[at].tensor.shape : safetensors_->entries()[at].shape;
  }
  // float64. Throws DataError where it is absent or not of this shape.
  at::Tensor read(const std::string& name, const std::vector<int64_t>& wanted) const {
    if (!names_.contains(name))
      throw DataError(path_, {}, "a tensor " + name, "no such tensor");
    if (shape(name) != wanted)
      throw DataError(path_, {}, name + " of shape " + shape_text(wanted),
                      shape_text(shape(name)));
    const std::size_t at = names_.at(name);
    const at::Tensor values =
        to_tensor(torch_ ? entries_[at].tensor.read()
                         : safetensors_->read(safetensors_->entries()[at].name))
            .to(at::kDouble);
    if (!values.isfinite().all().item<bool>())
      throw DataError(path_, {}, name + " of finite numbers", "numbers that are not");
    return values;
  }

 private:
  void add(std::string name, std::size_t at) {
    std::replace(name.begin(), name.end(), '.', '_');
    std::replace(name.begin(), name.end(), '/', '_');
    names_.emplace(std::move(name), at);
  }

  std::string path_;
  std::optional<TorchFile> torch_;
  std::vector<TorchEntry> entries_;
  std::optional<SafetensorsReader> safetensors_;
  std::map<std::string, std::size_t> names_;
};

// How a file calls the parts of a convolution. `scale` may be absent: ones.
struct NamesOfParts {
  std::string prefix;
  bool torchvision = false;
  std::string weight = "_weight", bias = "_bias", scale, mean, variance;

  std::string stem(const InceptionConvolution& layer) const {
    std::string name = torchvision ? layer.torchvision : layer.name;
    std::replace(name.begin(), name.end(), '.', '_');
    return prefix + name;
  }
};

// The first convolution tells: what stands before its name stands before all.
NamesOfParts names_of_parts(const InceptionFile& file) {
  const auto ends_in = [&](const std::string& end) -> std::optional<std::string> {
    for (const auto& [name, at] : file.names())
      if (name.ends_with(end) &&
          file.shape(name) == std::vector<int64_t>{32, 3, 3, 3})
        return name.substr(0, name.size() - end.size());
    return {};
  };
  NamesOfParts parts;
  if (const auto prefix = ends_in("Conv2d_1a_3x3_conv_weight")) {
    parts = {*prefix, true, "_conv_weight", "_bn_bias", "_bn_weight", "_bn_running_mean",
             "_bn_running_var"};
  } else if (const auto plain = ends_in("conv_weight")) {
    parts.prefix = *plain;
    if (file.names().contains(*plain + "conv_beta")) {
      parts.bias = "_beta";
      parts.mean = "_mean";
      parts.variance = "_var";
    }
  } else {
    throw DataError(file.path(), {},
                    "the 2015 Inception's first convolution (conv.weight, "
                    "layers.conv.weight or Conv2d_1a_3x3.conv.weight, [32, 3, 3, 3])",
                    std::to_string(file.names().size()) + " tensors without it");
  }
  return parts;
}

ConvolutionWeights read_convolution(const InceptionFile& file, const NamesOfParts& parts,
                                    const InceptionConvolution& layer) {
  const std::string stem = parts.stem(layer);
  const std::vector<int64_t> each{layer.outputs};
  at::Tensor weight = file.read(stem + parts.weight, {layer.outputs, layer.inputs,
                                                      layer.height, layer.width});
  at::Tensor bias = file.read(stem + parts.bias, each);
  if (!parts.mean.empty()) {
    const at::Tensor variance = file.read(stem + parts.variance, each);
    if ((variance < 0).any().item<bool>())
      throw DataError(file.path(), {}, stem + parts.variance + " that is not negative",
                      "negative numbers");
    at::Tensor scale = (variance + kBatchNormEpsilon).rsqrt();
    if (!parts.scale.empty()) scale = scale * file.read(stem + parts.scale, each);
    weight = weight * scale.view({-1, 1, 1, 1});
    bias = bias - file.read(stem + parts.mean, each) * scale;
  }
  return {weight.to(at::kFloat), bias.to(at::kFloat)};
}

void read_logits(const InceptionFile& file, const std::string& prefix,
                 InceptionWeights& weights) {
  for (const std::string name : {"fc", "output", "logits"}) {
    const std::string weight = prefix + name + "_weight", bias = prefix + name + "_bias";
    if (!file.names().contains(weight)) continue;
    const bool turned = file.shape(weight) == std::vector<int64_t>{kPooled, kLogits};
    const at::Tensor values =
        turned ? file.read(weight, {kPooled, kLogits}).t()
               : file.read(weight, {kLogits, kPooled});
    weights.logits_weight = values.contiguous().to(at::kFloat);
    weights.logits_bias = file.read(bias, {kLogits}).to(at::kFloat);
    return;
  }
}

}  // namespace

InceptionWeights read_inception_weights(const std::filesystem::path& path) {
  const InceptionFile file(path);
  const NamesOfParts parts = names_of_parts(file);
  InceptionWeights weights;
  std::string ended;  // the block that is absent
  for (const InceptionConvolution& layer : inception_convolutions()) {
    const std::string name = parts.stem(layer) + parts.weight, block = layer.block;
    const bool begins = !block.empty() && block != weights.last_block && ended.empty();
    const bool present = file.names().contains(name);
    if (begins && !present) ended = block;
    if (!ended.empty()) {
      if (present)
        throw DataError(path.string(), {},
                        "all convolutions of " + ended + ", or none from there on",
                        name + ", but not the first of " + ended);
      continue;
    }
    if (begins) weights.last_block = block;
    weights.convolutions[layer.name] = read_convolution(file, parts, layer);
  }
  // NVIDIA's "output" stands beside "layers".
  std::string outer = parts.prefix;
  if (outer.ends_with("layers_")) outer.resize(outer.size() - std::strlen("layers_"));
  if (weights.last_block == "mixed_10") read_logits(file, outer, weights);
  return weights;
}

bool holds_inception(const std::filesystem::path& path) {
  try {
    names_of_parts(InceptionFile(path));
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace flowmap::metrics
