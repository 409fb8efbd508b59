// The scale of classifier-free guidance as an input of a network (Boffi et al. 2025,
// arXiv 2505.18825, appendix F.5: the map v_{s,t}(x; a, c) of the velocity guided by a).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "flowmap/network.h"
#include "flowmap/nn/layers.h"

namespace flowmap {

inline constexpr int64_t kGuidanceFeatures = 32;

// [cos((a-1) f) - 1, sin((a-1) f)], 16 frequencies f from 1 down to 1/26 rad: one and
// a half periods and less over scales a in [0, 10]. Zeros at a = 1, the scale of no
// guidance, which an undefined Condition::guidance stands for.
// -> [batch, kGuidanceFeatures], type and device those of `like`.
at::Tensor guidance_features(const Condition& condition, int64_t batch,
                             const at::Tensor& like);

// What is added to the embedding of the time: a linear map of the features, without bias.
// It starts at zero, so that nothing depends on the scale at first, and at a = 1 it adds
// zero always. Parameter weight [width, kGuidanceFeatures].
class GuidanceEmbedding : public Linear {
 public:
  explicit GuidanceEmbedding(int64_t width);
  Dual forward(const Condition& condition, int64_t batch) const;  // -> [batch, width]
};

}  // namespace flowmap
