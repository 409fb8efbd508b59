// Gradient checkpointing: a block keeps its inputs only and is computed again on the way
// back. Chen et al. 2016 (arXiv 1604.06174).
#pragma once

#include <torch/nn/module.h>

#include <functional>
#include <span>

#include "flowmap/dual.h"
#include "flowmap/network.h"

namespace flowmap {

// A block as a function of its inputs. It may use the parameters of its module, and
// randomness only out of the context it is handed; taps are off in there.
using BlockFunction = std::function<Dual(std::span<const Dual>, const Context&)>;

// run(inputs, context), at the same value and gradients. Where
// context.gradient_checkpointing is set and gradients are recorded, nothing inside the
// block is kept for the way back; it is run a second time then, with the same dropout
// masks and the same autocast. `block` holds every parameter that `run` reads, and both
// must outlive the backward pass. Tangents are inputs and outputs as values are, so
// reverse over a Jacobian-vector product works; differentiating the gradient does not.
Dual checkpointed(const Context& context, const torch::nn::Module& block,
                  std::span<const Dual> inputs, const BlockFunction& run);

}  // namespace flowmap
