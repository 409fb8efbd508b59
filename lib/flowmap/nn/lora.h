// Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685; on convolutions as BOSS has it,
// arXiv 2312.16414): W = W0 + (alpha / rank) B A for the weights of linear layers and
// convolutions, W0 and everything else of the network frozen.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/model.h"
#include "flowmap/train/optimizer.h"

namespace flowmap {

struct LoraOptions {
  int64_t rank = 4;
  double alpha = 1;  // BOSS: 4 and 1, so that B A counts a quarter
  // Layers whose name holds one of these stay as they are ("qkv", "proj").
  std::vector<std::string> exclude;

  double scale() const { return alpha / static_cast<double>(rank); }
};
// "lora": {"rank", "alpha", "exclude"}. Throws UsageError.
LoraOptions read_lora_options(const Config& lora);

// The adapted weights of one model. The model is evaluated as ever: its weights are the
// merged ones, written anew by `merge` after the factors change, and `take_gradients` turns
// the gradients that a backward pass left at them into those of the factors:
// dA = scale B^T dW, dB = scale dW A^T. No layer knows of it.
class Lora {
 public:
  // A of each layer is uniform in +-1/sqrt(fan in), drawn from (seed, its name), B zero: the
  // model does not change. Freezes all parameters but the adapted weights. Throws UsageError
  // where no layer is left.
  Lora(std::shared_ptr<Model> model, const LoraOptions& options, std::uint64_t seed);

  const LoraOptions& options() const { return options_; }
  // "LAYER.lora_A" [rank, in], "LAYER.lora_B" [out, rank]; "in" of a convolution is
  // channels x k x k, in the order of its weight.
  const std::vector<NamedTensor>& factors() const { return factors_; }
  int64_t parameter_count() const;
  // model_checksum of the model before any change.
  const std::string& base_checksum() const { return base_checksum_; }

  // Where the model goes. Call before the model is given to an optimiser.
  void to(at::Device device);
  // Adds to the gradients of the factors, and takes those of the weights away.
  void take_gradients();
  // W of the own model from the current factors.
  void merge();
  // The same into a copy of the model, with `factors` in the place of the current ones.
  void merge_into(Model& copy, const std::vector<NamedTensor>& factors) const;

 private:
  struct Layer {
    std::string name;       // of the layer
    at::Tensor weight;      // of the model
    at::Tensor base;        // W0, as it was
    at::Tensor a, b;
  };
  std::shared_ptr<Model> model_;
  LoraOptions options_;
  std::string base_checksum_;
  std::vector<Layer> layers_;
  std::vector<NamedTensor> factors_;
};

// W0 + scale B A in the shape of W0.
at::Tensor merged_weight(const at::Tensor& base, const at::Tensor& a, const at::Tensor& b,
                         double scale);

// Shapes of the weights that would be adapted, by the name of the layer; for counting.
std::map<std::string, std::vector<int64_t>> lora_layers(const Model& model,
                                                        const LoraOptions& options);

}  // namespace flowmap
