// Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598).
#pragma once

#include <cstdint>

#include "flowmap/dual.h"
#include "flowmap/network.h"

namespace flowmap {

// u + scale (c - u) of the conditional c and the unconditional u, both [B, C, ...], in the
// first `channels` channels (0: in all); the others are c's own. DiT and SiT guide three
// channels and leave what a learned variance says alone. Throws UsageError where there
// are fewer channels.
Dual classifier_free_guidance(const Dual& conditional, const Dual& unconditional,
                              double scale, int64_t channels = 0);
// A scale for each sample, [B].
Dual classifier_free_guidance(const Dual& conditional, const Dual& unconditional,
                              const at::Tensor& scale, int64_t channels = 0);

// What `network` says under `condition`, guided away from what it says without class
// labels. Two evaluations; taps are the conditional one's.
Dual guided_forward(Network& network, const Dual& x, const Dual& time, const Dual& time2,
                    const Condition& condition, double scale, int64_t channels,
                    Context& context);

}  // namespace flowmap
