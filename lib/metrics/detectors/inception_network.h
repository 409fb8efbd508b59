// The image classifier of 2015 that FID is defined by (Szegedy et al. 2015, arXiv
// 1512.00567, as TensorFlow's inception-2015-12-05), evaluation only.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flowmap::metrics {

// One of the network's convolutions; bias and ReLU follow each. TensorFlow's VALID is no
// padding, its SAME half the kernel.
struct InceptionConvolution {
  const char* block;        // "" of the stem, else "mixed", "mixed_1", ..., "mixed_10"
  const char* name;         // TensorFlow's scope with '_' for '/': "mixed_4_tower_conv_1"
  const char* torchvision;  // "Mixed_6b.branch7x7_2"
  int inputs, outputs, height, width, stride;
  bool same;
};
// All 94, in the order of the network.
std::span<const InceptionConvolution> inception_convolutions();
// "mixed", "mixed_1", ..., "mixed_10".
std::span<const char* const> inception_blocks();

// Batch norm folded in.
struct ConvolutionWeights {
  at::Tensor weight;  // float32 [outputs, inputs, height, width]
  at::Tensor bias;    // float32 [outputs]
};
struct InceptionWeights {
  std::map<std::string, ConvolutionWeights> convolutions;  // by TensorFlow's scope
  // The last block whose convolutions are all there; "" where only the stem is.
  std::string last_block;
  at::Tensor logits_weight, logits_bias;  // [1008, 2048], [1008]; undefined where absent
};

class InceptionNetwork {
 public:
  // dtype: kFloat or kBFloat16 (convolutions; features come out as float32 means).
  InceptionNetwork(const InceptionWeights& weights, const at::Device& device,
                   at::ScalarType dtype);
  ~InceptionNetwork();
  InceptionNetwork(const InceptionNetwork&) = delete;
  InceptionNetwork& operator=(const InceptionNetwork&) = delete;

  // Sees each stage as it is made: "conv", "conv_1", "conv_2", "pool", "conv_3",
  // "conv_4", "pool_1", "mixed", ..., "mixed_10", and of the blocks the first branch
  // ("mixed_6/conv"). [B, C, H, W] in the network's dtype. Returns whether to go on.
  using Visitor = std::function<bool(std::string_view stage, const at::Tensor& output)>;
  // input: float32 [B, 3, 299, 299] on any device, scaled. Runs as far as the weights
  // reach or the visitor wants.
  void run(const at::Tensor& input, const Visitor& visit) const;

  const at::Device& device() const { return device_; }
  at::ScalarType dtype() const { return dtype_; }
  // Multiply-adds of one picture up to and with `block` ("mixed_7").
  static double multiply_adds(std::string_view block);

 private:
  struct Layer;
  at::Tensor convolve(const std::string& name, const at::Tensor& x) const;
  at::Tensor chain(const std::string& prefix, const std::vector<std::string>& names,
                   at::Tensor x) const;
  at::Tensor block(std::string_view name, const at::Tensor& x, const Visitor& visit,
                   bool& go_on) const;

  at::Device device_;
  at::ScalarType dtype_;
  std::string last_block_;
  std::map<std::string, Layer> layers_;
};

}  // namespace flowmap::metrics
