// Denoisers: D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), and the rules for the
// scalings (Karras et al. 2022, arXiv 2206.00364, table 1).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

#include "flowmap/base/config.h"
#include "flowmap/dual.h"
#include "flowmap/model.h"
#include "flowmap/network.h"

namespace flowmap {

// Functions of sigma, [B]. An undefined c_skip or c_in is 1.
struct DenoiserScalings {
  Dual c_skip, c_out, c_in, c_noise;
};

struct DenoiserRule {
  ModelInfo about;  // sigma_data, sigma_min, sigma_max
  std::function<DenoiserScalings(const Dual& sigma)> scalings;
  // Sigmas of the noise levels that the network knows, where it knows no others; see
  // Model::round_sigma.
  at::Tensor levels;
  // The buffer of the model that `levels` becomes; empty: none.
  std::string levels_buffer;
  // Channels of the network over those of the sample; the first part counts.
  int64_t out_factor = 1;
};

// `options`: the preconditioning's. Throw UsageError on values out of range.
DenoiserRule edm_rule(const Config& options);
DenoiserRule vp_rule(const Config& options);
DenoiserRule ve_rule(const Config& options);
// Discrete noise levels (denoiser_discrete.cpp). iddpm: Nichol and Dhariwal 2021 (arXiv
// 2102.09672) as in Karras et al. 2022, levels u_0 > ... > u_M = 0, c_noise the level's
// index counted from the other end. ddpm: Ho et al. 2020 (arXiv 2006.11239), linear betas,
// c_noise the index, between levels linear in log sigma, or with `round` the nearest.
DenoiserRule iddpm_rule(const Config& options);
DenoiserRule ddpm_rule(const Config& options);

// Index (int64, sigma's shape) of the nearest of `levels` [N], compared in float32 as EDM
// does; the first of equally near ones.
at::Tensor nearest_level(const at::Tensor& sigma, const at::Tensor& levels);

// What surrounds the rule in a specification (sample_shape, label_dim, base_std,
// init_sigma), on a network with one time. Throws UsageError.
std::shared_ptr<Model> make_denoiser(std::shared_ptr<Network> network, DenoiserRule rule,
                                     const Config& spec);

}  // namespace flowmap
