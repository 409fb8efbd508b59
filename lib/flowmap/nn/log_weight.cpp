#include "flowmap/nn/log_weight.h"

#include <ATen/ATen.h>

#include <cmath>

#include "flowmap/nn/mp_layers.h"

namespace flowmap {

LogWeight::LogWeight(const LogWeightOptions& options)
    : options_(options), embedding_(options.channels) {
  const int64_t n = options_.channels;
  vector = options_.normalized
               ? register_parameter("weight", at::zeros({1, n}, weight_options()))
               : register_parameter("vector", at::zeros({n}, weight_options()));
}

at::Tensor LogWeight::forward(const at::Tensor& s, const at::Tensor& t) const {
  const auto features = [&](const at::Tensor& time) {
    return embedding_.forward(Dual(time.to(vector.options()) * options_.scale)).value;
  };
  // sqrt(2) of each embedding cancels the 1 / sqrt(2) of their sum.
  const at::Tensor e = features(s) + features(t);
  const at::Tensor v = options_.normalized ? normalized_weight(vector)[0] : vector;
  return at::matmul(e, v) / std::sqrt(static_cast<double>(options_.channels));
}

void LogWeight::project() {
  if (!options_.normalized) return;
  const at::NoGradGuard no_grad;
  vector.copy_(normalized_weight(vector));
}

void LogWeight::initialise(std::uint64_t seed, const std::string& name) {
  if (options_.normalized)
    vector.copy_(draw_init(seed, name + ".weight", vector.sizes(), 1, 1,
                           InitMode::kaiming_normal));
  else
    vector.zero_();
}

}  // namespace flowmap
