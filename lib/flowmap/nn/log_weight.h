// The learned log-weight w of exp(-w) l + w (Karras et al. 2024, "Analyzing and Improving
// the Training Dynamics of Diffusion Models"; Boffi et al. 2025, arXiv 2505.18825).
#pragma once

#include <memory>

#include "flowmap/nn/layers.h"

namespace flowmap {

// w(s, t) = <vector, e> / sqrt(128) with e = (e(s) + e(t)) / sqrt(2), e(t) =
// sqrt(2) [cos(scale t f), sin(scale t f)], 128 features, raw s and t (not t - s).
// The vector starts at zero, so w = 0 and every loss starts unweighted. Where the
// published code keeps the vector at unit norm (|w| <= 16), ours is free; the factor
// 1 / sqrt(128) makes an Adam step move w as much as it does there at the start.
class LogWeight : public torch::nn::Module {
 public:
  explicit LogWeight(double scale);
  // s, t [B] -> [B].
  at::Tensor forward(const at::Tensor& s, const at::Tensor& t) const;

  at::Tensor vector;

 private:
  double scale_;
  PositionalEmbedding embedding_;
};

}  // namespace flowmap
