// Guidance: one model steered away from another.
#pragma once

#include <cstdint>
#include <memory>

#include "flowmap/model.h"

namespace flowmap::samplers {

// Every view is guide + scale (main - guide): autoguidance with a weaker guide (Karras et al.
// 2024, arXiv 2406.02507, eq. 5), or classifier-free guidance (Ho and Salimans 2022, arXiv
// 2207.12598), where the guide is the main model without classes. With scale 1 the guide is
// not asked. Flow maps: the blend is of the average velocities. Kind, shape and noise levels
// are the main model's.
class GuidedModel : public Model {
 public:
  // The guide is asked with the same classes; with none where it has none. Throws UsageError
  // unless kind, sample shape, interpolant and base_std agree.
  GuidedModel(std::shared_ptr<Model> main, std::shared_ptr<Model> guide, double scale);
  // Classifier-free. Throws UsageError on a model without classes.
  GuidedModel(std::shared_ptr<Model> main, double scale);

  // Network evaluations of one evaluation of this model: 2, or 1 with scale 1.
  int64_t networks() const { return scale_ == 1 ? 1 : 2; }

  ModelInfo info() const override;
  Dual velocity(const Dual& x, const Dual& t, const Condition& c, Context& ctx) override;
  Dual average_velocity(const Dual& x, const Dual& s, const Dual& t, const Condition& c,
                        Context& ctx) override;
  Dual denoise(const Dual& x, const Dual& sigma, const Condition& c,
               Context& ctx) override;
  at::Tensor round_sigma(const at::Tensor& sigma) const override;
  // The main network's.
  Dual raw(const Dual& x, const Dual& time, const Dual& time2, const Condition& c,
           Context& ctx) override;
  void use_channels_last() override;
  double multiply_adds() const override;

 private:
  template <class View>
  Dual blend(const Condition& c, const View& view);

  std::shared_ptr<Model> main_, guide_;
  bool without_classes_ = false;  // what the guide is asked for
  double scale_;
};

// Network evaluations of one evaluation of the model: those of a GuidedModel, else 1.
int64_t networks_of(const Model& model);

}  // namespace flowmap::samplers
