#include "flowmap/nn/log_weight.h"

#include <ATen/ATen.h>

#include <cmath>

namespace flowmap {

namespace {
constexpr int64_t kLogWeightFeatures = 128;
}

LogWeight::LogWeight(double scale) : scale_(scale), embedding_(kLogWeightFeatures) {
  vector = register_parameter("vector", at::zeros({kLogWeightFeatures}));
}

at::Tensor LogWeight::forward(const at::Tensor& s, const at::Tensor& t) const {
  const auto features = [&](const at::Tensor& time) {
    return embedding_.forward(Dual(time.to(vector.options()) * scale_)).value;
  };
  // sqrt(2) of each embedding cancels the 1 / sqrt(2) of their sum.
  const at::Tensor e = features(s) + features(t);
  return at::matmul(e, vector) / std::sqrt(static_cast<double>(kLogWeightFeatures));
}

}  // namespace flowmap
