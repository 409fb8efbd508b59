#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/ddim.h"
#include "samplers/deis.h"
#include "samplers/dpmpp.h"
#include "samplers/edm.h"
#include "samplers/jumps.h"
#include "samplers/rk45.h"
#include "samplers/sampler.h"
#include "samplers/straight.h"
#include "samplers/unipc.h"

namespace flowmap::samplers {

const std::vector<SamplerEntry>& sampler_registry() {
  static const std::vector<SamplerEntry> entries{
      {"euler", "explicit Euler, first order, with EDM's churn and ablations",
       "Euler 1768; Karras et al. 2022, Algorithm 3", &make_euler},
      {"heun", "Heun's second-order method, EDM's sampler with churn and ablations",
       "Karras et al. 2022, Algorithms 1 and 2", &make_heun},
      {"flow_map", "jumps of a flow map, one evaluation each; churn adds noise between",
       "Boffi et al. 2025; Kim et al. 2023, Algorithm 3", &make_flow_map},
      {"consistency", "jumps to the estimated data, noise again between them",
       "Song et al. 2023, Algorithm 1", &make_consistency},
      {"straight", "for straightened flows: each step starts from the first noise again",
       "Lee et al. 2024, arXiv 2405.20320", &make_straight},
      {"ddim", "DDIM, first order in log-SNR; eta adds noise, 1 is ancestral sampling",
       "Song et al. 2020, arXiv 2010.02502", &make_ddim},
      {"dpmpp", "DPM-Solver++ multistep, order 1 to 3, ODE or SDE",
       "Lu et al. 2022, arXiv 2211.01095", &make_dpmpp},
      {"unipc", "UniPC, a multistep predictor with a free corrector, order 1 to 3",
       "Zhao et al. 2023, arXiv 2302.04867", &make_unipc},
      {"deis", "DEIS multistep, order 1 to 4: Adams-Bashforth in sigma, log sigma or t",
       "Zhang and Chen 2023, arXiv 2204.13902", &make_deis},
      {"ipndm", "iPNDM, Adams-Bashforth with the weights of equal steps, order 1 to 4",
       "Zhang and Chen 2023, arXiv 2204.13902; Liu et al. 2022", &make_ipndm},
      {"rk45", "adaptive Dormand-Prince 5(4), steps by tolerance, each sample its own",
       "Dormand and Prince 1980", &make_rk45},
  };
  return entries;
}

std::shared_ptr<Sampler> make_sampler(const std::string& name, const Config& options) {
  std::vector<std::string> names;
  for (const SamplerEntry& entry : sampler_registry()) {
    if (name == entry.name) {
      auto sampler = entry.make(options);
      try {
        options.check_all_read();
      } catch (const UsageError& error) {
        throw UsageError("--solver " + name + ": " + error.what());
      }
      return sampler;
    }
    names.emplace_back(entry.name);
  }
  throw UsageError("--solver: unknown sampler '" + name + "'" + suggestion(name, names));
}

}  // namespace flowmap::samplers
