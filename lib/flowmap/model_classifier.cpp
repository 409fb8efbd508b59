// A network that names classes: no clock, no preconditioning. raw() gives logits.
#include <ATen/ATen.h>

#include <memory>

#include "flowmap/base/error.h"
#include "flowmap/nn/init.h"
#include "flowmap/preconditioning.h"

namespace flowmap {
namespace {

class ClassifierModel final : public NetworkModel {
 public:
  ClassifierModel(std::shared_ptr<Network> network, const NetworkShape& shape)
      : NetworkModel(std::move(network)) {
    info_.sample_shape = shape.sample;
    info_.label_dim = shape.label_dim;
  }

  ModelInfo info() const override { return info_; }
  Dual velocity(const Dual&, const Dual&, const Condition&, Context&) override {
    refuse();
  }
  Dual average_velocity(const Dual&, const Dual&, const Dual&, const Condition&,
                        Context&) override {
    refuse();
  }
  Dual denoise(const Dual&, const Dual&, const Condition&, Context&) override {
    refuse();
  }
  // [B, C, H, W] in [-1, 1] -> logits [B, label_dim]; times are not looked at and may be
  // undefined.
  Dual raw(const Dual& x, const Dual& time, const Dual& time2, const Condition& c,
           Context& ctx) override {
    return network_->forward(in_own_type(x), time, time2, c, ctx);
  }

 private:
  [[noreturn]] static void refuse() {
    throw UsageError(
        "this snapshot holds a classifier: it names classes and draws no images; it "
        "serves as --detector of `flowmap fid`");
  }
  ModelInfo info_;
};

}  // namespace

std::shared_ptr<Model> make_classifier_model(const Config& spec) {
  const NetworkShape shape = read_network_shape(spec, 1);
  return std::make_shared<ClassifierModel>(build_network(spec.child("network"), shape),
                                           shape);
}

}  // namespace flowmap
