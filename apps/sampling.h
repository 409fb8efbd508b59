// A model made ready to be sampled, and its samples as a source of what is scored.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "apps/image_source.h"
#include "apps/run_options.h"
#include "apps/sampler_flags.h"
#include "samplers/engine.h"

namespace CLI {
class App;
}

namespace flowmap::apps {

// All that says how a network is sampled, as in `flowmap generate`.
struct SamplingFlags {
  NetworkFlags network;
  ScheduleFlags schedule;
  SolverFlags solver;
  GuidanceFlags guidance;
  std::string classes, device, dtype = "float32";
};
// --network, --key, ..., --steps, --solver, --guidance, ..., --device, --dtype.
void add_sampling_flags(CLI::App& app, SamplingFlags& flags);
// --class: one of all samples.
void add_class_flag(CLI::App& app, SamplingFlags& flags);

struct Sampling {
  std::shared_ptr<Model> model;  // guided, where it is
  std::shared_ptr<samplers::Sampler> sampler;
  samplers::Schedule schedule;
  samplers::GenerateRequest request;  // device, precision, guidance; no seeds
  int64_t one_class = -1;  // of all samples; -1: drawn from the seed
  std::string solver;      // its name
  // "1 step of flow_map"; "rk45" for solvers that choose their steps.
  std::string text() const;
};
// Loads the network of the flags. Throws UsageError.
Sampling prepare_sampling(const CLI::App& app, const SamplingFlags& flags);

// Samples by seed: rows are seeds. Bytes by EDM's rule, as PNG files would hold them;
// points as they are. Throws UsageError on latents, which have no picture.
std::shared_ptr<SampleSource> generated_source(Sampling sampling, std::string name);

}  // namespace flowmap::apps
