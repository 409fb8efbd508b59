// Runs of other programs' multistep solvers, in the exact algebra of ours: sigma-scaled
// states (alpha = 1), unit normals at the start, our option names.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "samplers/sampler.h"
#include "tests/support/analytic_models.h"
#include "tests/support/training_reference.h"

namespace flowmap::samplers {

struct PeerRun {
  std::string solver;      // ours
  Config options;          // ours
  Schedule schedule;       // in sigma
  at::Tensor latents;      // [B, sample...]
  at::Tensor inputs;       // states before each step, scaled to alpha = 1; or undefined
  at::Tensor final_state;  // scaled to alpha = 1
  at::Tensor noise;        // [draws, B, sample...] or undefined
};

inline void set(Config& options, const std::string& assignment) {
  options.set_override(assignment, "test");
}

// scales [n + 1]: per knot the factor from alpha = 1 to the peer's scaling.
inline void fill_states(PeerRun& run, const flowmap::testing::MethodReference& reference,
                        const std::string& name, const at::Tensor& scales) {
  const at::Tensor states = reference.at(name + "/states");
  std::vector<int64_t> shape(static_cast<std::size_t>(states.dim()), 1);
  shape[0] = states.size(0);
  const at::Tensor scaled = states / scales.reshape(shape);
  run.inputs = scaled.slice(0, 0, states.size(0) - 1);
  run.final_state = reference.at(name + "/final") / scales[-1];
}

inline void set_schedule(PeerRun& run, const at::Tensor& sigmas) {
  const at::Tensor values = sigmas.contiguous();
  run.schedule.sigma = true;
  run.schedule.source = "reference";
  run.schedule.times.assign(values.const_data_ptr<double>(),
                            values.const_data_ptr<double>() + values.numel());
}

// DPM-Solver, UniPC and EDM faces of diffusers.
inline PeerRun diffusers_run(const flowmap::testing::MethodReference& reference,
                             const std::string& name) {
  const Config item = reference.item(name), config = reference.config(name);
  PeerRun run;
  const std::string scheduler = item.string("scheduler");
  const std::string algorithm = config.string("algorithm_type", "dpmsolver++");
  run.solver = scheduler.starts_with("UniPC")  ? "unipc"
               : scheduler.starts_with("DEIS") ? "deis"
                                               : "dpmpp";
  if (run.solver == "deis") {
    set(run.options, "polynomial=log_rho");
    set(run.options, "lower_order_final=true");
  }
  const auto order = config.integer("solver_order", 2);
  set(run.options, "order=" + std::to_string(order));
  if (config.has("solver_type"))
    set(run.options, "solver_type=" + config.string("solver_type"));
  if (algorithm == "dpmsolver" || !config.boolean("predict_x0", true))
    set(run.options, "prediction=noise");
  if (algorithm == "sde-dpmsolver++") set(run.options, "sde=true");
  if (!config.boolean("lower_order_final", true))
    set(run.options, "lower_order_final=false");
  if (config.boolean("euler_at_final", false)) set(run.options, "euler_at_final=true");
  if (config.has("disable_corrector"))
    set(run.options, "disable_corrector=" + config.raw("disable_corrector"));

  const at::Tensor stored = reference.at(name + "/sigmas");
  const bool edm = scheduler.starts_with("EDM");
  const bool flow = config.boolean("use_flow_sigmas", false);
  const at::Tensor sigmas = flow ? stored / (1 - stored) : stored;
  const at::Tensor scales = edm    ? at::ones_like(sigmas)
                            : flow ? 1 - stored
                                   : (1 + sigmas.square()).rsqrt();
  set_schedule(run, sigmas);
  fill_states(run, reference, name, scales);
  const double first = edm ? item.number("init_noise_sigma")
                           : 1 / scales[0].item<double>();
  run.latents = reference.at(name + "/noise_init") * (first / run.schedule.times[0]);
  if (algorithm == "sde-dpmsolver++") run.noise = reference.at(name + "/noise");
  return run;
}

inline PeerRun ddim_run(const flowmap::testing::MethodReference& reference,
                        const std::string& name) {
  const Config config = reference.config(name);
  PeerRun run;
  run.solver = "ddim";
  const double eta = reference.item(name).child("step").number("eta", 0.0);
  set(run.options, "eta=" + std::to_string(eta));
  if (name == "ddim_clip") set(run.options, "clip=1");
  const at::Tensor used = reference.at(name + "/alphas_cumprod");
  // The level after the last step: no noise, or that of the first training step.
  const double last = config.boolean("set_alpha_to_one", true)
                          ? 1
                          : 1 - config.number("beta_start");
  const at::Tensor alphas = at::cat({used, at::full({1}, last, at::kDouble)});
  set_schedule(run, ((1 - alphas) / alphas).sqrt());
  fill_states(run, reference, name, alphas.sqrt());
  run.latents = reference.at(name + "/noise_init") / (1 - alphas[0]).sqrt();
  if (eta > 0) run.noise = reference.at(name + "/noise");
  return run;
}

// k-diffusion's (k_) and diff-sampler's (d_).
inline PeerRun other_run(const flowmap::testing::MethodReference& reference,
                         const std::string& name) {
  const Config config = reference.config(name);
  PeerRun run;
  const bool k_diffusion = name.starts_with("k_");
  for (const char* solver : {"dpmpp", "unipc", "deis", "ipndm"})
    if (name.find(solver) != std::string::npos) run.solver = solver;
  // ipndm_v's second order has the weights of the actual steps: rho-AB.
  if (name == "d_ipndm_v2") run.solver = "deis";
  run.latents = reference.at(name + (k_diffusion ? "/noise_init" : "/latents"));
  set_schedule(run, reference.at(name + (k_diffusion ? "/sigmas" : "/t_steps")));
  run.final_state = reference.at(name + "/final");
  if (!k_diffusion) {
    set(run.options, "order=" + std::to_string(config.integer("max_order")));
    if (!config.boolean("predict_x0", true)) set(run.options, "prediction=noise");
    if (run.solver == "unipc") set(run.options, "solver_type=" + config.string("variant"));
    const at::Tensor states = reference.at(name + "/states");
    // UniPC's are the corrected states, which the network does not see.
    if (run.solver != "unipc") run.inputs = states.slice(0, 0, states.size(0) - 1);
    return run;
  }
  run.inputs = reference.at(name + "/net_x");
  set(run.options, "lower_order_final=false");
  const bool third = name.find("_3m") != std::string::npos;
  if (third) set(run.options, "order=3");
  if (third) set(run.options, "solver_type=heun");
  else if (config.has("solver_type"))
    set(run.options, "solver_type=" + config.string("solver_type"));
  if (name.find("_sde") != std::string::npos) {
    set(run.options, "eta=" + std::to_string(config.number("eta", 1.0)));
    run.noise = reference.at(name + "/noise");
  }
  return run;
}

inline std::shared_ptr<Model> peer_model(
    const flowmap::testing::MethodReference& reference, const std::string& name,
    ModelKind kind = ModelKind::denoiser) {
  const auto tensor = [&](const char* part) {
    return reference.at("model/" + name + "/" + part);
  };
  if (name == "gauss12")
    return std::make_shared<flowmap::testing::GaussianDenoiser>(
        std::vector<int64_t>{3, 2, 2}, tensor("m"), tensor("Q"), tensor("s"));
  return std::make_shared<flowmap::testing::MixtureModel>(
      kind, std::vector<int64_t>{2}, tensor("w"), tensor("m"), tensor("c"));
}

}  // namespace flowmap::samplers
