#include "flowmap/preconditioning.h"

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/nn/init.h"
#include "flowmap/ops.h"

namespace flowmap {

NetworkShape read_network_shape(const Config& spec, int64_t times) {
  NetworkShape shape;
  shape.sample = spec.integers("sample_shape");
  FM_CHECK_USAGE(shape.sample.size() == 1 || shape.sample.size() == 3,
                 spec.where("sample_shape"),
                 ": sample_shape must be [C, H, W] for images or [d] for points");
  for (const int64_t n : shape.sample)
    FM_CHECK_USAGE(n > 0, spec.where("sample_shape"), ": sample_shape must be positive");
  shape.label_dim = spec.integer("label_dim", 0, 0, 1 << 24);
  shape.times = times;
  return shape;
}

NetworkModel::NetworkModel(std::shared_ptr<Network> network)
    : network_(register_module("model", std::move(network))) {
  const auto parameters = network_->parameters();
  FM_CHECK(!parameters.empty(), "the network has no parameters");
  first_ = parameters.front();
}

Dual NetworkModel::raw(const Dual& x, const Dual& time, const Dual& time2,
                       const Condition& c, Context& ctx) {
  const int64_t batch = x.value.size(0);
  const Dual second = time2.defined() ? times_in_own_type(time2, batch) : time2;
  const Dual own = in_own_type(x), first = times_in_own_type(time, batch);
  if (!channels_last_ || own.value.dim() != 4)
    return in_own_type(network_->forward(own, first, second, c, ctx));
  const Dual out = network_->forward(ops::in_memory_order(own, at::MemoryFormat::ChannelsLast),
                                     first, second, c, ctx);
  return in_own_type(ops::contiguous(out));
}

void NetworkModel::use_channels_last() {
  channels_last_ = true;
  const at::NoGradGuard no_grad;
  for (at::Tensor& p : network_->parameters())
    if (p.dim() == 4) p.set_data(p.contiguous(at::MemoryFormat::ChannelsLast));
}

Dual NetworkModel::in_own_type(const Dual& a) const {
  const at::ScalarType own = first_.scalar_type();
  return a.value.scalar_type() == own ? a : ops::to(a, own);
}

Dual NetworkModel::times_in_own_type(const Dual& time, int64_t batch) const {
  const Dual t = in_own_type(time);
  FM_CHECK(t.value.dim() <= 1 && (t.value.numel() == batch || t.value.numel() == 1),
           "times have shape ", t.value.sizes(), "; expected [", batch, "]");
  if (t.value.dim() == 1 && t.value.numel() == batch) return t;
  return {t.value.expand({batch}),
          t.has_tangent() ? t.tangent.expand({batch}) : at::Tensor()};
}

Dual NetworkModel::sample_channels(const Dual& out, int64_t channels) {
  return out.value.size(1) > channels ? ops::narrow(out, 1, 0, channels) : out;
}

const std::vector<PreconditioningEntry>& preconditioning_registry() {
  static const std::vector<PreconditioningEntry> entries = {
      {"flow", "velocity, or with two_times a flow map: v = sigma_data F(x / sigma_data)",
       "Boffi et al. 2025 (arXiv 2505.18825); Lipman et al. 2023 (arXiv 2210.02747)",
       ModelKind::velocity, make_flow_model},
      {"edm", "denoiser with EDM's scalings", "Karras et al. 2022 (arXiv 2206.00364)",
       ModelKind::denoiser, make_edm_model},
      {"edm2", "denoiser with EDM's scalings and a learned uncertainty",
       "Karras et al. 2024 (arXiv 2312.02696)", ModelKind::denoiser, make_edm2_model},
      {"vp", "denoiser with the scalings of variance-preserving diffusion",
       "Song et al. 2021 (arXiv 2011.13456), as in Karras et al. 2022",
       ModelKind::denoiser, make_vp_model},
      {"ve", "denoiser with the scalings of variance-exploding diffusion",
       "Song et al. 2021 (arXiv 2011.13456), as in Karras et al. 2022",
       ModelKind::denoiser, make_ve_model},
      {"iddpm", "denoiser of the discrete noise levels of improved DDPM",
       "Nichol and Dhariwal 2021 (arXiv 2102.09672), as in Karras et al. 2022",
       ModelKind::denoiser, make_iddpm_model},
      {"ddpm", "denoiser of a network that predicts noise at discrete linear betas",
       "Ho et al. 2020 (arXiv 2006.11239)", ModelKind::denoiser, make_ddpm_model},
      {"classifier", "no clock: the network's logits", "", ModelKind::velocity,
       make_classifier_model},
  };
  return entries;
}

std::shared_ptr<Model> build_model(const Config& spec) {
  std::vector<std::string> names;
  for (const PreconditioningEntry& entry : preconditioning_registry())
    names.emplace_back(entry.name);
  const std::string type = spec.child("preconditioning").choice("type", names, "flow");
  for (const PreconditioningEntry& entry : preconditioning_registry())
    if (type == entry.name) return entry.make(spec);
  throw Error("preconditioning_registry: no entry " + type);
}

std::shared_ptr<Model> make_model(const Config& spec, std::uint64_t seed) {
  auto model = build_model(spec);
  initialise_weights(*model, seed);
  return model;
}

std::shared_ptr<Model> clone_frozen(const Model& model, const Config& spec) {
  auto copy = build_model(spec);
  const auto& parameters = model.named_parameters();
  if (!parameters.is_empty()) {
    const at::Tensor& first = parameters.begin()->value();
    copy->to(first.device(), first.scalar_type());
  }
  copy_weights(model, *copy);
  for (at::Tensor& p : copy->parameters()) p.set_requires_grad(false);
  copy->eval();
  return copy;
}

}  // namespace flowmap
