#include "samplers/guided.h"

#include <ATen/ATen.h>

#include <cmath>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"

namespace flowmap::samplers {

GuidedModel::GuidedModel(std::shared_ptr<Model> main, std::shared_ptr<Model> guide,
                         double scale)
    : main_(register_module("main", std::move(main))),
      guide_(guide == main_ ? main_ : register_module("guide", std::move(guide))),
      scale_(scale) {
  FM_CHECK_USAGE(std::isfinite(scale), "--guidance: a finite number, not ", scale);
  const ModelInfo a = main_->info(), b = guide_->info();
  FM_CHECK_USAGE(a.kind == b.kind, "--gnet: a ", model_kind_name(b.kind),
                 " cannot guide a ", model_kind_name(a.kind));
  FM_CHECK_USAGE(a.sample_shape == b.sample_shape, "--gnet: samples of shape ",
                 at::IntArrayRef(b.sample_shape), ", but the network's are ",
                 at::IntArrayRef(a.sample_shape));
  FM_CHECK_USAGE(a.interpolant == b.interpolant && a.base_std == b.base_std,
                 "--gnet: its interpolant or base_std is not the network's");
  FM_CHECK_USAGE(b.label_dim == 0 || b.label_dim == a.label_dim, "--gnet: trained with ",
                 b.label_dim, " classes, the network with ", a.label_dim);
  without_classes_ = b.label_dim == 0;
}

GuidedModel::GuidedModel(std::shared_ptr<Model> main, double scale)
    : GuidedModel(main, main, scale) {
  FM_CHECK_USAGE(main_->info().label_dim > 0, "--guidance: the network has no classes to "
                 "be guided by; give another network by --gnet");
  without_classes_ = true;
}

ModelInfo GuidedModel::info() const {
  ModelInfo info = main_->info();
  info.guidance_input = false;  // the scale is ours
  return info;
}

template <class View>
Dual GuidedModel::blend(const Condition& c, const View& view) {
  const Dual with = view(*main_, c);
  if (scale_ == 1) return with;
  Condition without = c;
  if (without_classes_) without.class_labels = at::Tensor();
  const Dual guide = view(*guide_, without);
  return guide + ops::scale(with - guide, scale_);
}

Dual GuidedModel::velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) {
  return blend(c, [&](Model& model, const Condition& condition) {
    return model.velocity(x, t, condition, ctx);
  });
}

Dual GuidedModel::average_velocity(const Dual& x, const Dual& s, const Dual& t,
                                   const Condition& c, Context& ctx) {
  return blend(c, [&](Model& model, const Condition& condition) {
    return model.average_velocity(x, s, t, condition, ctx);
  });
}

Dual GuidedModel::denoise(const Dual& x, const Dual& sigma, const Condition& c,
                          Context& ctx) {
  return blend(c, [&](Model& model, const Condition& condition) {
    return model.denoise(x, sigma, condition, ctx);
  });
}

at::Tensor GuidedModel::round_sigma(const at::Tensor& sigma) const {
  return main_->round_sigma(sigma);
}

Dual GuidedModel::raw(const Dual& x, const Dual& time, const Dual& time2,
                      const Condition& c, Context& ctx) {
  return main_->raw(x, time, time2, c, ctx);
}

void GuidedModel::use_channels_last() {
  main_->use_channels_last();
  guide_->use_channels_last();
}

double GuidedModel::multiply_adds() const {
  return main_->multiply_adds() + (networks() > 1 ? guide_->multiply_adds() : 0);
}

int64_t networks_of(const Model& model) {
  const auto* guided = dynamic_cast<const GuidedModel*>(&model);
  return guided ? guided->networks() : 1;
}

}  // namespace flowmap::samplers
