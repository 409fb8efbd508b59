// The learned log-weight w of exp(-w) l + w (Karras et al. 2024, "Analyzing and Improving
// the Training Dynamics of Diffusion Models"; Boffi et al. 2025, arXiv 2505.18825).
#pragma once

#include <cstdint>
#include <string>

#include "flowmap/nn/layers.h"

namespace flowmap {

struct LogWeightOptions {
  double scale = 16;       // of the times in the embedding
  int64_t channels = 128;  // features n
  // The published code: the vector is kept at unit root-mean-square, so |w| <= sqrt(2 n),
  // and starts at random. Ours is free and starts at zero, so that w = 0 and every loss
  // starts unweighted; the factor 1 / sqrt(n) makes an Adam step move w as much as it
  // does there at the start.
  bool normalized = false;
};

// w(s, t) = <vector, e> / sqrt(n) with e = (e(s) + e(t)) / sqrt(2), e(t) =
// sqrt(2) [cos(scale t f), sin(scale t f)], raw s and t (not t - s).
class LogWeight : public torch::nn::Module, public Initialised {
 public:
  explicit LogWeight(const LogWeightOptions& options);
  // s, t [B] -> [B].
  at::Tensor forward(const at::Tensor& s, const at::Tensor& t) const;
  // Forced weight normalisation, where it is normalized.
  void project();
  void initialise(std::uint64_t seed, const std::string& name) override;

  // "vector" [n], or the published "weight" [1, n] where it is normalized.
  at::Tensor vector;

 private:
  LogWeightOptions options_;
  PositionalEmbedding embedding_;
};

}  // namespace flowmap
