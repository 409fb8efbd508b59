// What the preconditionings share, and their factories (the registry's rows).
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "flowmap/model.h"

namespace flowmap {

// sample_shape and label_dim of a specification, with the given number of times.
NetworkShape read_network_shape(const Config& spec, int64_t times);

// A model on one network, registered as "model" (EDM's key names).
class NetworkModel : public Model {
 public:
  Dual raw(const Dual& x, const Dual& time, const Dual& time2, const Condition& c,
           Context& ctx) override;
  void project() override { network_->project(); }
  void use_channels_last() override;
  double multiply_adds() const override { return network_->multiply_adds(); }
  const Network& network() const { return *network_; }

 protected:
  explicit NetworkModel(std::shared_ptr<Network> network);
  // Models compute in the type of their weights, whatever comes in, as EDM's do: float32
  // unless the module was converted.
  Dual in_own_type(const Dual& a) const;
  // Likewise; one time for all of a batch is repeated.
  Dual times_in_own_type(const Dual& time, int64_t batch) const;

  // The first `channels` of dimension 1: networks that learn a variance give more, which
  // no view uses.
  static Dual sample_channels(const Dual& out, int64_t channels);

  std::shared_ptr<Network> network_;

 private:
  at::Tensor first_;  // a parameter: follows the module's type
  bool channels_last_ = false;
};

std::shared_ptr<Model> make_flow_model(const Config& spec);
std::shared_ptr<Model> make_edm_model(const Config& spec);
std::shared_ptr<Model> make_edm2_model(const Config& spec);
std::shared_ptr<Model> make_vp_model(const Config& spec);
std::shared_ptr<Model> make_ve_model(const Config& spec);
std::shared_ptr<Model> make_iddpm_model(const Config& spec);
std::shared_ptr<Model> make_ddpm_model(const Config& spec);
std::shared_ptr<Model> make_classifier_model(const Config& spec);

// What preconditioning.type names, weights not drawn yet.
std::shared_ptr<Model> build_model(const Config& spec);

}  // namespace flowmap
