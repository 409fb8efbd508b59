#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/ode.h"
#include "samplers/sampler.h"

namespace flowmap::samplers {

const std::vector<SamplerEntry>& sampler_registry() {
  static const std::vector<SamplerEntry> entries{
      {"euler", "explicit Euler, first order", "Euler 1768", &make_euler},
      {"heun", "Heun's second-order method, EDM's deterministic sampler",
       "Karras et al. 2022, Algorithm 1", &make_heun},
      {"flow_map", "jumps of a flow map, one evaluation each", "Boffi et al. 2025",
       &make_flow_map},
  };
  return entries;
}

std::shared_ptr<Sampler> make_sampler(const std::string& name, const Config& options) {
  std::vector<std::string> names;
  for (const SamplerEntry& entry : sampler_registry()) {
    if (name == entry.name) return entry.make(options);
    names.emplace_back(entry.name);
  }
  throw UsageError("--solver: unknown sampler '" + name + "'" + suggestion(name, names));
}

}  // namespace flowmap::samplers
