// Multi-layer perceptron on flattened samples with raw times.
#pragma once

#include <memory>
#include <vector>

#include "flowmap/nn/guidance_embedding.h"
#include "flowmap/nn/layers.h"

namespace flowmap {

struct MlpOptions {
  int64_t width = 512;
  int64_t depth = 5;  // hidden layers, one GELU each
};

// Input [s, t, x..., labels...] (one-time networks: [t, x..., labels...]) with times as
// they come, tanh-form GELU, LeCun-normal truncated weights, zero biases. Parameters
// layer0 .. layer<depth>, and where a scale of guidance is an input also guidance, added
// before the first GELU. The network of Boffi et al. 2025 (arXiv 2505.18825) on
// checkerboards, which has 5 hidden layers of 512: 1,054,210 parameters.
class Mlp : public Network {
 public:
  Mlp(MlpOptions options, NetworkShape shape);
  Dual forward(const Dual& x, const Dual& time, const Dual& time2,
               const Condition& condition, Context& context) override;
  double multiply_adds() const override;
  double default_time_scale() const override { return 1; }

 private:
  NetworkShape shape_;
  int64_t sample_numel_ = 1;
  std::vector<std::shared_ptr<Linear>> layers_;
  std::shared_ptr<GuidanceEmbedding> guidance_;
};

std::shared_ptr<Network> make_mlp(const Config& options, const NetworkShape& shape);

}  // namespace flowmap
