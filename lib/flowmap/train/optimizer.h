// Adam, AdamW and RAdam, as PyTorch defines them, over named parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "flowmap/base/config.h"

namespace flowmap {

enum class OptimizerRule { adam, adamw, radam };

struct OptimizerOptions {
  OptimizerRule rule = OptimizerRule::adam;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
};
// Reads "type", "beta1", "beta2", "eps", "weight_decay".
OptimizerOptions read_optimizer_options(const Config& config);

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

class Optimizer {
 public:
  // The tensors are updated in place by their gradients; a parameter without a gradient
  // is left alone in that step.
  Optimizer(const OptimizerOptions& options, std::vector<NamedTensor> parameters);

  // Kingma & Ba 2015 (Adam), Loshchilov & Hutter 2019 (AdamW), Liu et al. 2020 (RAdam;
  // eps is added before the bias correction, as in PyTorch). Adam's weight decay is L2.
  void step(double lr);
  void zero_grad();

  // Moments and the step count, names prefixed "exp_avg/", "exp_avg_sq/", and "step".
  std::map<std::string, at::Tensor> state() const;
  // Throws Error if a name or shape does not fit.
  void load_state(const std::map<std::string, at::Tensor>& state);
  int64_t steps() const { return steps_; }

 private:
  OptimizerOptions options_;
  std::vector<NamedTensor> parameters_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;
  int64_t steps_ = 0;
};

// RAdam's rectification at step k (1-based): 0 where it is not applied (rho_k <= 5).
double radam_rectification(int64_t k, double beta2);

// Global L2 norm of the gradients, float64 scalar. Missing gradients count as zero.
at::Tensor gradient_norm(const std::vector<NamedTensor>& parameters);
// Scales gradients so that their norm is at most `limit`: factor limit / (norm + 1e-6)
// where that is below 1 (PyTorch's clip_grad_norm_).
void clip_gradients(const std::vector<NamedTensor>& parameters, double norm,
                    double limit);

}  // namespace flowmap
