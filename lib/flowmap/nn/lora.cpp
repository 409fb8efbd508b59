#include "flowmap/nn/lora.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/model_checksum.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/layers.h"

namespace flowmap {
namespace {

bool lora_excluded(const std::string& layer, const LoraOptions& options) {
  for (const std::string& part : options.exclude)
    if (layer.find(part) != std::string::npos) return true;
  return false;
}

// Weights of linear layers and convolutions by the name of the layer, in the model's order.
std::vector<std::pair<std::string, at::Tensor>> adaptable_weights(
    const Model& model, const LoraOptions& options) {
  std::vector<std::pair<std::string, at::Tensor>> found;
  for (const auto& item : model.named_modules("", false)) {
    at::Tensor weight;
    if (const auto* linear = dynamic_cast<const Linear*>(item.value().get()))
      weight = linear->weight;
    else if (const auto* conv = dynamic_cast<const Conv2d*>(item.value().get()))
      weight = conv->weight;
    if (weight.defined() && !lora_excluded(item.key(), options))
      found.emplace_back(item.key(), weight);
  }
  return found;
}

int64_t fan_in_of(const at::Tensor& weight) { return weight.numel() / weight.size(0); }

void add_gradient(const at::Tensor& factor, const at::Tensor& gradient) {
  at::Tensor& held = factor.mutable_grad();
  if (held.defined())
    held.add_(gradient);
  else
    held = gradient;
}

}  // namespace

LoraOptions read_lora_options(const Config& lora) {
  LoraOptions options;
  options.rank = lora.integer("rank", 4, 1, 1 << 16);
  options.alpha = lora.number("alpha", 1, 1e-6, 1e6);
  options.exclude = lora.strings("exclude", std::vector<std::string>{});
  for (const std::string& part : options.exclude)
    FM_CHECK_USAGE(!part.empty(), lora.where("exclude"),
                   ": lora.exclude: an empty text would leave every layer out");
  return options;
}

at::Tensor merged_weight(const at::Tensor& base, const at::Tensor& a, const at::Tensor& b,
                         double scale) {
  return base + (at::mm(b, a) * scale).reshape(base.sizes());
}

std::map<std::string, std::vector<int64_t>> lora_layers(const Model& model,
                                                        const LoraOptions& options) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& [name, weight] : adaptable_weights(model, options))
    shapes[name] = weight.sizes().vec();
  return shapes;
}

Lora::Lora(std::shared_ptr<Model> model, const LoraOptions& options, std::uint64_t seed)
    : model_(std::move(model)), options_(options), base_checksum_(model_checksum(*model_)) {
  const at::NoGradGuard no_grad;
  for (at::Tensor& p : model_->parameters()) p.set_requires_grad(false);
  for (auto& [name, weight] : adaptable_weights(*model_, options_)) {
    const int64_t in = fan_in_of(weight), out = weight.size(0);
    Layer layer{name, weight, weight.detach().clone(), {}, {}};
    // Kaiming-uniform with a = sqrt(5), as the layers of PyTorch: variance 1 / (3 fan in).
    layer.a = draw_init(seed, name + ".lora_A", {options_.rank, in}, in, options_.rank,
                        InitMode::kaiming_uniform)
                  .mul_(std::sqrt(1.0 / 3));
    layer.b = at::zeros({out, options_.rank});
    weight.set_requires_grad(true);
    factors_.push_back({name + ".lora_A", layer.a});
    factors_.push_back({name + ".lora_B", layer.b});
    layers_.push_back(std::move(layer));
  }
  FM_CHECK_USAGE(!layers_.empty(), "lora: this network has no linear layer or convolution "
                 "to adapt that lora.exclude leaves");
}

int64_t Lora::parameter_count() const {
  int64_t total = 0;
  for (const NamedTensor& factor : factors_) total += factor.tensor.numel();
  return total;
}

void Lora::to(at::Device device) {
  factors_.clear();
  for (Layer& layer : layers_) {
    layer.base = layer.base.to(device);
    layer.a = layer.a.to(device);
    layer.b = layer.b.to(device);
    factors_.push_back({layer.name + ".lora_A", layer.a});
    factors_.push_back({layer.name + ".lora_B", layer.b});
  }
}

void Lora::take_gradients() {
  const at::NoGradGuard no_grad;
  for (Layer& layer : layers_) {
    at::Tensor& held = layer.weight.mutable_grad();
    if (!held.defined()) continue;
    const at::Tensor gradient = held.reshape({layer.weight.size(0), -1}) * options_.scale();
    add_gradient(layer.a, at::mm(layer.b.t(), gradient));
    add_gradient(layer.b, at::mm(gradient, layer.a.t()));
    held.reset();
  }
}

void Lora::merge() {
  const at::NoGradGuard no_grad;
  for (Layer& layer : layers_)
    layer.weight.copy_(merged_weight(layer.base, layer.a, layer.b, options_.scale()));
}

void Lora::merge_into(Model& copy, const std::vector<NamedTensor>& factors) const {
  const at::NoGradGuard no_grad;
  auto parameters = copy.named_parameters();
  std::map<std::string, at::Tensor> by_name;
  for (const NamedTensor& factor : factors) by_name[factor.name] = factor.tensor;
  for (const Layer& layer : layers_)
    parameters[layer.name + ".weight"].copy_(
        merged_weight(layer.base, by_name.at(layer.name + ".lora_A"),
                      by_name.at(layer.name + ".lora_B"), options_.scale()));
}

}  // namespace flowmap
