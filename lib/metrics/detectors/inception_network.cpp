#include "metrics/detectors/inception_network.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <mutex>
#include <optional>

#include "flowmap/base/error.h"

namespace flowmap::metrics {
namespace {

// oneDNN through the two operators that LibTorch has for its own compiler: weights laid
// out once as the convolution wants them, ReLU inside it. Half the time of at::conv2d and
// relu_ in a plain layout.
using ReorderWeight = at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef,
                                 at::IntArrayRef, int64_t, at::OptionalIntArrayRef);
using PointwiseConvolution = at::Tensor(
    const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
    at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, std::string_view,
    c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

struct OneDnnOperators {
  std::optional<c10::TypedOperatorHandle<ReorderWeight>> reorder;
  std::optional<c10::TypedOperatorHandle<PointwiseConvolution>> convolve;
};

const OneDnnOperators& onednn_operators() {
  static const OneDnnOperators operators = [] {
    OneDnnOperators found;
    auto& dispatcher = c10::Dispatcher::singleton();
    const auto reorder =
        dispatcher.findSchema({"mkldnn::_reorder_convolution_weight", ""});
    const auto convolve = dispatcher.findSchema({"mkldnn::_convolution_pointwise", ""});
    if (reorder && convolve && at::hasMKLDNN()) {
      found.reorder = reorder->typed<ReorderWeight>();
      found.convolve = convolve->typed<PointwiseConvolution>();
    }
    return found;
  }();
  return operators;
}

}  // namespace

struct InceptionNetwork::Layer {
  at::Tensor weight, bias;
  std::vector<int64_t> stride, padding{0, 0};
  bool packable = false;  // on the CPU, in float32
  mutable std::once_flag packing;
  mutable at::Tensor packed;
};

InceptionNetwork::~InceptionNetwork() = default;

InceptionNetwork::InceptionNetwork(const InceptionWeights& weights,
                                   const at::Device& device, at::ScalarType dtype)
    : device_(device), dtype_(dtype), last_block_(weights.last_block) {
  FM_CHECK(dtype == at::kFloat || dtype == at::kBFloat16,
           "the Inception runs in float32 or bf16");
  bool reached = false;
  std::string_view before;
  for (const InceptionConvolution& entry : inception_convolutions()) {
    if (reached && before != entry.block) break;
    reached = last_block_ == entry.block;
    before = entry.block;
    const ConvolutionWeights& given = weights.convolutions.at(entry.name);
    Layer& layer = layers_[entry.name];
    layer.weight =
        given.weight.to(device, dtype).contiguous(at::MemoryFormat::ChannelsLast);
    layer.bias = given.bias.to(device, dtype);
    layer.stride = {entry.stride, entry.stride};
    if (entry.same) layer.padding = {entry.height / 2, entry.width / 2};
    layer.packable = device.is_cpu() && dtype == at::kFloat &&
                     onednn_operators().convolve &&
                     at::globalContext().userEnabledMkldnn();
  }
}

at::Tensor InceptionNetwork::convolve(const std::string& name,
                                      const at::Tensor& x) const {
  const Layer& layer = layers_.at(name);
  if (!layer.packable)
    return at::conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding).relu_();
  static const std::vector<int64_t> ones{1, 1};
  std::call_once(layer.packing, [&] {
    layer.packed = onednn_operators().reorder->call(
        layer.weight, layer.padding, layer.stride, ones, 1, x.sizes());
  });
  return onednn_operators().convolve->call(x, layer.packed, layer.bias, layer.padding,
                                           layer.stride, ones, 1, "relu",
                                           c10::List<std::optional<at::Scalar>>(), "");
}

// prefix "mixed_4_tower" and names {"conv", "conv_1"} one after the other.
at::Tensor InceptionNetwork::chain(const std::string& prefix,
                                   const std::vector<std::string>& names,
                                   at::Tensor x) const {
  for (const std::string& name : names) x = convolve(prefix + "_" + name, x);
  return x;
}

at::Tensor InceptionNetwork::block(std::string_view block_name, const at::Tensor& x,
                                   const Visitor& visit, bool& go_on) const {
  const std::string name(block_name), first = name + "_tower", second = name + "_tower_1";
  const auto pooled = [&] {  // 3x3, stride 1; the mean leaves out what is padding
    return name == "mixed_10" ? at::max_pool2d(x, {3, 3}, {1, 1}, {1, 1})
                              : at::avg_pool2d(x, {3, 3}, {1, 1}, {1, 1}, false, false);
  };
  std::vector<at::Tensor> parts;
  if (name != "mixed_8") {
    parts.push_back(convolve(name + "_conv", x));
    go_on = visit(name + "/conv", parts[0]);
    if (!go_on) return {};
  }
  if (name == "mixed_3") {
    parts.push_back(chain(first, {"conv", "conv_1", "conv_2"}, x));
    parts.push_back(at::max_pool2d(x, {3, 3}, {2, 2}));
  } else if (name == "mixed_8") {
    parts.push_back(chain(first, {"conv", "conv_1"}, x));
    parts.push_back(chain(second, {"conv", "conv_1", "conv_2", "conv_3"}, x));
    parts.push_back(at::max_pool2d(x, {3, 3}, {2, 2}));
  } else if (name == "mixed_9" || name == "mixed_10") {
    for (const auto& [tower, names] :
         {std::pair{first, std::vector<std::string>{"conv"}},
          std::pair{second, std::vector<std::string>{"conv", "conv_1"}}}) {
      const at::Tensor shared = chain(tower, names, x);
      parts.push_back(convolve(tower + "_mixed_conv", shared));
      parts.push_back(convolve(tower + "_mixed_conv_1", shared));
    }
    parts.push_back(convolve(name + "_tower_2_conv", pooled()));
  } else {
    const bool wide = name == "mixed" || name == "mixed_1" || name == "mixed_2";
    if (wide) {
      parts.push_back(chain(first, {"conv", "conv_1"}, x));
      parts.push_back(chain(second, {"conv", "conv_1", "conv_2"}, x));
    } else {
      parts.push_back(chain(first, {"conv", "conv_1", "conv_2"}, x));
      parts.push_back(chain(second, {"conv", "conv_1", "conv_2", "conv_3", "conv_4"}, x));
    }
    parts.push_back(convolve(name + "_tower_2_conv", pooled()));
  }
  at::Tensor joined = at::cat(parts, 1);
  go_on = visit(name, joined);
  return joined;
}

void InceptionNetwork::run(const at::Tensor& input, const Visitor& visit) const {
  const at::NoGradGuard no_grad;
  at::Tensor x = input.to(device_, dtype_).contiguous(at::MemoryFormat::ChannelsLast);
  for (const char* name : {"conv", "conv_1", "conv_2", "pool", "conv_3", "conv_4",
                           "pool_1"}) {
    x = name[0] == 'p' ? at::max_pool2d(x, {3, 3}, {2, 2}) : convolve(name, x);
    if (!visit(name, x)) return;
  }
  if (last_block_.empty()) return;
  bool go_on = true;
  for (const char* name : inception_blocks()) {
    x = block(name, x, visit, go_on);
    if (!go_on || last_block_ == name) return;
  }
}

}  // namespace flowmap::metrics
