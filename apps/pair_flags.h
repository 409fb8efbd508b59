// Teachers of pairs: from flags, and again from what a folder of pairs says.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <string>
#include <vector>

#include "apps/sampling.h"
#include "flowmap/pairs/pair_manifest.h"

namespace flowmap::apps {

// All but source, images and stored_noise, which are not of the teacher. Throws UsageError.
PairRecipe pair_recipe(const CLI::App& app, const SamplingFlags& flags,
                       const Sampling& sampling);
// The words given, as a shell reads them, without the flags in `dropped` and their values.
std::string command_words(std::span<const std::string> arguments,
                          const std::vector<std::string>& dropped);

// The sampling that made the pairs; `network` and `guide` are files, whose sums must be the
// recipe's. Throws UsageError on another network.
Sampling sampling_of(const PairRecipe& recipe, const NetworkFlags& network,
                     const std::string& guide, at::Device device);

// Noise of samples [B, sample...] as the network sees them, by Heun's method (or Euler's,
// where the solver is "euler"); classes int64 [B] or undefined. float32 on the CPU.
at::Tensor inverted_noise(const Sampling& sampling, const at::Tensor& samples,
                          const at::Tensor& classes);

}  // namespace flowmap::apps
