// From seeds to samples, batch by batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "flowmap/precision.h"
#include "samplers/sampler.h"

namespace flowmap::samplers {

struct GenerateRequest {
  // One sample a row. Latents are drawn from the seeds (Draw::per_seed, stream "latents")
  // unless they are given.
  std::vector<std::uint64_t> seeds;
  at::Tensor latents;     // [N, sample...] unit normals, or undefined
  // int64 [N] on the CPU, or undefined: conditional models then draw a class a seed
  // (stream "class").
  at::Tensor classes;
  // The scale that models with guidance as an input are given (ModelInfo::guidance_input);
  // others are guided by GuidedModel (guided.h).
  double guidance = 1;
  int64_t batch = 64;
  at::Device device = at::kCPU;
  Precision precision;  // float64: the model must be in it too
};

struct GeneratedBatch {
  int64_t first = 0;      // position of the first row in the request
  at::Tensor samples;     // [b, sample...] on the CPU, float32 (float64 if asked)
  at::Tensor classes;     // int64 [b] on the CPU, or undefined
};

// Calls `deliver` for each batch in order. Latents and classes of a row depend on its
// seed alone; its sample does not depend on how rows are packed, up to the rounding of
// the library's algorithms for other shapes. Returns false when `deliver` asked to stop
// by returning false. No gradients. Throws UsageError on classes a model does not have and
// on a guidance scale that it does not take.
bool generate_batches(Model& model, const Sampler& sampler, const Schedule& schedule,
                      const GenerateRequest& request,
                      const std::function<bool(const GeneratedBatch&)>& deliver);

// Network evaluations per image: the sampler's, times the networks of a guided model.
int64_t network_evaluations(const Sampler& sampler, const Model& model,
                            const Schedule& schedule);

// The sampler to use when none is named: the snapshot's where it states one, else
// flow_map for flow maps, euler for velocities and one-step generators, heun for denoisers.
std::string default_sampler(const ModelInfo& info, const std::string& stated);

}  // namespace flowmap::samplers
