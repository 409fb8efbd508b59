#include "samplers/engine.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "flowmap/base/error.h"
#include "samplers/guided.h"

namespace flowmap::samplers {
namespace {

void check_request(const ModelInfo& info, const GenerateRequest& request) {
  FM_CHECK_USAGE(request.batch >= 1, "--batch: at least 1, not ", request.batch);
  if (request.latents.defined()) {
    const auto got = request.latents.sizes().slice(1);
    FM_CHECK_USAGE(got == at::IntArrayRef(info.sample_shape), "--latents: shape ",
                   request.latents.sizes(), " does not fit the model's samples ",
                   at::IntArrayRef(info.sample_shape));
    FM_CHECK_USAGE(request.seeds.empty() ||
                       static_cast<int64_t>(request.seeds.size()) ==
                           request.latents.size(0),
                   "--seeds: ", request.seeds.size(), " for ", request.latents.size(0),
                   " latents");
  }
  FM_CHECK_USAGE(request.guidance == 1 || info.guidance_input, "--guidance: the network "
                 "does not take the scale as an input");
  if (!request.classes.defined()) return;
  FM_CHECK_USAGE(info.label_dim > 0, "--class: the model was trained without classes");
  if (request.classes.numel() == 0) return;
  const auto low = request.classes.min().item<int64_t>();
  const auto high = request.classes.max().item<int64_t>();
  FM_CHECK_USAGE(low >= 0 && high < info.label_dim, "--class: ", low < 0 ? low : high,
                 " is not among the model's classes 0 to ", info.label_dim - 1);
}

}  // namespace

bool generate_batches(Model& model, const Sampler& sampler, const Schedule& schedule,
                      const GenerateRequest& request,
                      const std::function<bool(const GeneratedBatch&)>& deliver) {
  const at::NoGradGuard no_grad;
  const ModelInfo info = model.info();
  check_request(info, request);
  const int64_t count = request.latents.defined()
                            ? request.latents.size(0)
                            : static_cast<int64_t>(request.seeds.size());
  std::vector<std::uint64_t> seeds = request.seeds;
  if (seeds.empty())  // given latents are numbered
    for (int64_t i = 0; i < count; ++i) seeds.push_back(static_cast<std::uint64_t>(i));
  const Draw all = Draw::per_seed(seeds);
  const at::ScalarType state = request.precision.weights();
  const PrecisionGuard precision(request.device.type(), request.precision);

  for (int64_t first = 0; first < count; first += request.batch) {
    const int64_t end = std::min(count, first + request.batch);
    const Draw draw = all.slice(first, end);
    at::Tensor latents = request.latents.defined()
                             ? request.latents.slice(0, first, end)
                             : draw.normal("latents", info.sample_shape);
    latents = latents.to(request.device, state);

    GeneratedBatch batch;
    batch.first = first;
    Condition condition;
    if (info.label_dim > 0) {
      batch.classes = request.classes.defined() ? request.classes.slice(0, first, end)
                                                : draw.integer("class", {}, info.label_dim);
      condition.class_labels =
          at::one_hot(batch.classes, info.label_dim).to(request.device, state);
    }
    if (info.guidance_input)
      condition.guidance = at::full({end - first}, request.guidance, latents.options());
    batch.samples =
        sampler.sample(model, latents, condition, schedule, draw).to(at::kCPU);
    if (!deliver(batch)) return false;
  }
  return true;
}

int64_t network_evaluations(const Sampler& sampler, const Model& model,
                            const Schedule& schedule) {
  return sampler.evaluations(model.info(), schedule) * networks_of(model);
}

std::string default_sampler(const ModelInfo& info, const std::string& stated) {
  if (!stated.empty()) return stated;
  switch (info.kind) {
    case ModelKind::flow_map: return "flow_map";
    case ModelKind::denoiser: return info.init_sigma > 0 ? "euler" : "heun";
    case ModelKind::velocity: break;
  }
  return "euler";
}

}  // namespace flowmap::samplers
