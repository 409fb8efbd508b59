#include "flowmap/nn/guidance_embedding.h"

#include <ATen/ATen.h>

#include <cmath>

namespace flowmap {

namespace {

constexpr int64_t kGuidanceWaves = kGuidanceFeatures / 2;
constexpr double kSlowestGuidanceWave = 1.0 / 32;  // itself left out

}  // namespace

at::Tensor guidance_features(const Condition& condition, int64_t batch,
                             const at::Tensor& like) {
  const at::TensorOptions type = like.options().requires_grad(false);
  if (!condition.guidance.defined()) return at::zeros({batch, kGuidanceFeatures}, type);
  const at::Tensor excess = condition.guidance.to(type).sub(1).unsqueeze(1);
  // On the device of the scales: no copy in every step.
  const double ratio =
      std::log(kSlowestGuidanceWave) / static_cast<double>(kGuidanceWaves);
  const at::Tensor angle = excess * at::arange(kGuidanceWaves, type).mul(ratio).exp();
  return at::cat({angle.cos() - 1, angle.sin()}, 1);
}

GuidanceEmbedding::GuidanceEmbedding(int64_t width)
    : Linear(kGuidanceFeatures, width, Init{InitMode::kaiming_normal, 0, 0},
             /*with_bias=*/false) {}

Dual GuidanceEmbedding::forward(const Condition& condition, int64_t batch) const {
  return Linear::forward(Dual(guidance_features(condition, batch, weight)));
}

}  // namespace flowmap
