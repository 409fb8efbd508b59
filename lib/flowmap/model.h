// A network with its parameterisation and preconditioning: what the output means. All
// views are exact algebra of one another (docs/dual-numbers.md, DESIGN: conventions).
//
// Clock: t = 0 noise, t = 1 data; x_t = alpha(t) b n + beta(t) x1 with n unit normal, b the
// standard deviation of the noise (interpolant.h). EDM's x_sigma = x1 + sigma n is
// x_t / beta(t) where sigma = b alpha(t) / beta(t); for the linear interpolant, alpha =
// 1 - t and beta = t, that is t = 1 / (1 + sigma/b).
#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/dual.h"
#include "flowmap/network.h"

namespace flowmap {

// alpha, beta: linear 1 - t, t; trigonometric cos(pi t/2), sin(pi t/2).
enum class Interpolant { linear, trigonometric };

enum class ModelKind { velocity, denoiser, flow_map };
// "velocity", "denoiser", "flow_map"
std::string_view model_kind_name(ModelKind kind);

struct ModelInfo {
  ModelKind kind = ModelKind::velocity;
  std::vector<int64_t> sample_shape;  // {C, H, W} or {d}
  int64_t label_dim = 0;
  Interpolant interpolant = Interpolant::linear;
  double base_std = 1;    // b
  double sigma_data = 1;  // of the preconditioning
  // Views clamp their times to these; the ends are singular in one view or the other.
  double t_min = 0, t_max = 1;
  double sigma_min = 0, sigma_max = 0;  // denoisers: the range they were trained for
  // One-step generators on a denoiser: latents enter as init_sigma * n. 0: at t = 0.
  double init_sigma = 0;
  // The network takes the scale of classifier-free guidance as an input
  // (Condition::guidance); without it, the scale is 1: no guidance.
  bool guidance_input = false;
};

class Model : public torch::nn::Module {
 public:
  virtual ModelInfo info() const = 0;

  // x [B, sample...] = x_t, t [B] -> v_{t,t}(x), the velocity E[dx_t/dt | x_t]; E[x1 - b n
  // | x_t] for the linear interpolant.
  virtual Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx);
  // x = x_s; s, t [B] -> v_{s,t}(x), the mean velocity between s and t: X_{s,t}(x) =
  // x + (t-s) v_{s,t}(x). Models without two times throw UsageError.
  virtual Dual average_velocity(const Dual& x, const Dual& s, const Dual& t,
                                const Condition& c, Context& ctx);
  // x [B, sample...] = x1 + sigma n, sigma [B] -> E[x1 | x].
  virtual Dual denoise(const Dual& x, const Dual& sigma, const Condition& c,
                       Context& ctx);
  // The nearest noise level that the network knows, for samplers that step on its levels
  // as EDM's does; sigma itself where it knows them all. Any shape.
  virtual at::Tensor round_sigma(const at::Tensor& sigma) const { return sigma; }
  // The learned w of exp(-w) l + w, [B]. Zeros where there is none.
  virtual at::Tensor log_weight(const at::Tensor& s, const at::Tensor& t);
  virtual bool has_log_weight() const { return false; }
  // The learned logarithm of the denoiser's squared error at sigma, in units of the loss
  // weight: EDM2's uncertainty u(sigma). [B] -> [B]; zeros where there is none.
  virtual at::Tensor log_variance(const at::Tensor& sigma);
  virtual bool has_log_variance() const { return false; }
  // What the network itself says at (x, time, time2), no preconditioning.
  virtual Dual raw(const Dual& x, const Dual& time, const Dual& time2,
                   const Condition& c, Context& ctx) = 0;
  // Images and the weights of convolutions channels-last in memory (NHWC), which tensor
  // cores want; results come row-major as ever. Networks of other kinds ignore it.
  virtual void use_channels_last() {}
  // Forced weight normalisation, at the start of each optimiser step.
  virtual void project() {}
  virtual double multiply_adds() const = 0;

  // X_{s,t}(x) = x + (t-s) v_{s,t}(x).
  Dual map(const Dual& x, const Dual& s, const Dual& t, const Condition& c,
           Context& ctx);
};

// sigma of our clock and back.
Dual sigma_from_t(const Dual& t, double base_std,
                  Interpolant interpolant = Interpolant::linear);
Dual t_from_sigma(const Dual& sigma, double base_std,
                  Interpolant interpolant = Interpolant::linear);

// Builds a model from its specification:
//   {"network": {"type": "ddpmpp", ...}, "preconditioning": {"type": "flow", ...},
//    "sample_shape": [1, 28, 28], "label_dim": 0}
// Every option that was defaulted is readable in spec.resolved_json() afterwards. Weights
// are drawn from (seed, parameter name). Throws UsageError.
std::shared_ptr<Model> make_model(const Config& spec, std::uint64_t seed);

// Preconditionings (lib/flowmap/preconditioning.cpp).
struct PreconditioningEntry {
  const char* name;
  const char* summary;
  const char* paper;
  ModelKind kind;
  std::shared_ptr<Model> (*make)(const Config& spec);
};
const std::vector<PreconditioningEntry>& preconditioning_registry();

// Copies parameters and buffers of `from` into `to` (same specification).
void copy_weights(const Model& from, Model& to);
// A second model of the same specification with the same weights, no gradients.
std::shared_ptr<Model> clone_frozen(const Model& model, const Config& spec);
int64_t parameter_count(const torch::nn::Module& module);

}  // namespace flowmap
