// The perceptron and the flow-map views against the JAX program of Boffi et al. 2025.
#include "flowmap/nn/mlp.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

#include "flowmap/base/error.h"
#include "flowmap/model.h"
#include "flowmap/nn/init.h"
#include "tests/support/network_reference.h"

namespace flowmap {
namespace {

using testing::NetworkReference;
using testing::relative_error;

class FlowMapsMlp : public ::testing::Test {
 protected:
  void SetUp() override {
    FM_NEED_FILE(testing::network_file("flowmaps_mlp"));
    reference_ = std::make_unique<NetworkReference>("flowmaps_mlp");
    const Config spec = Config::from_text(
        R"({"network": {"type": "mlp", "width": 16, "depth": 3}, "sample_shape": [2],
            "preconditioning": {"type": "flow", "two_times": true, "sigma_data": 0.5,
                                "base_std": 0.5}})", "test");
    model_ = make_model(spec, 1);
    spec.check_all_read();
    const at::NoGradGuard no_grad;
    for (auto& item : model_->named_parameters()) {
      // model.layer2.weight is phi_mlp.Dense_2.kernel, [in, out].
      const std::string layer = item.key().substr(std::string("model.layer").size(), 1);
      const std::string key = "phi_mlp.Dense_" + layer;
      if (item.key().ends_with("weight"))
        item.value().copy_(reference_->at(key + ".kernel").t());
      else
        item.value().copy_(reference_->at(key + ".bias"));
    }
  }

  Dual input(const std::string& name, at::ScalarType type) const {
    return Dual(reference_->at("input." + name).to(type));
  }
  static Dual with_unit_tangent(const Dual& a) {
    return {a.value, at::ones_like(a.value)};
  }

  std::unique_ptr<NetworkReference> reference_;
  std::shared_ptr<Model> model_;
};

TEST_F(FlowMapsMlp, ViewsAndTimeDerivativesAgree) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    model_->to(type);
    const bool is_double = type == at::kDouble;
    const std::string f64 = is_double ? "_f64" : "";
    const double bound = is_double ? 1e-10 : 1e-4;
    const Dual x = input("x0", type), s = input("s", type), t = input("t", type);
    const auto expect = [&](const at::Tensor& got, const std::string& name) {
      EXPECT_LT(relative_error(got, reference_->at("output" + f64 + "." + name)), bound)
          << name << f64;
    };
    Context ctx;
    expect(model_->average_velocity(x, s, t, {}, ctx).value, "phi");
    expect(model_->map(x, s, t, {}, ctx).value, "X");
    expect(model_->map(x, s, s, {}, ctx).value, "identity");
    expect(model_->velocity(x, t, {}, ctx).value, "b");
    expect(model_->map(x, s, with_unit_tangent(t), {}, ctx).tangent, "partial_t");
    expect(model_->map(x, with_unit_tangent(s), t, {}, ctx).tangent, "partial_s");
    const Dual joint =
        model_->map({x.value, input("tangent_x", type).value},
                    {s.value, input("tangent_s", type).value},
                    {t.value, input("tangent_t", type).value}, {}, ctx);
    EXPECT_LT(relative_error(joint.tangent, reference_->at("jvp" + f64)), bound);
  }
}

TEST(Mlp, CheckerboardParameterCount) {
  const Config options = Config::from_text(R"({"type": "mlp"})", "test");
  const auto network = build_network(options, {{2}, 0, 2, 0});
  EXPECT_EQ(parameter_count(*network), 1054210);
  EXPECT_EQ(network->multiply_adds(), 4 * 512 + 4 * 512 * 512 + 512 * 2);
  EXPECT_EQ(parameter_count(*build_network(options, {{2}, 10, 1, 0})),
            1054210 - 512 + 10 * 512);
}

TEST(Mlp, WeightsAreTruncatedNormalsOfUnitGain) {
  const Config options = Config::from_text(R"({"type": "mlp", "width": 400})", "test");
  const auto network = make_network(options, {{2}, 0, 1, 0});
  const at::Tensor w = network->named_parameters()["layer1.weight"] * 20;  // sqrt(400)
  EXPECT_NEAR(w.std().item<double>(), 1, 0.01);
  EXPECT_NEAR(w.mean().item<double>(), 0, 0.01);
  EXPECT_LE(w.abs().max().item<double>(), 2 / 0.8796 + 1e-3);
  EXPECT_GT(w.abs().max().item<double>(), 2.25);
  EXPECT_EQ(network->named_parameters()["layer1.bias"].abs().max().item<double>(), 0);
}

TEST(Mlp, LabelsEnterAndImagesAreFlattened) {
  const Config options =
      Config::from_text(R"({"type": "mlp", "width": 8, "depth": 1})", "test");
  const auto network = make_network(options, {{2, 4, 4}, 3, 1, 1});
  Context ctx;
  Condition first, second;
  first.class_labels = at::eye(3).narrow(0, 0, 2);
  second.class_labels = at::eye(3).narrow(0, 1, 2);
  const Dual x(at::ones({2, 2, 4, 4})), t(at::ones({2}));
  const at::Tensor a = network->forward(x, t, {}, first, ctx).value;
  EXPECT_EQ(a.sizes(), at::IntArrayRef({2, 1, 4, 4}));
  EXPECT_FALSE(at::equal(a, network->forward(x, t, {}, second, ctx).value));
  Condition none, zero;
  zero.class_labels = at::zeros({2, 3});
  EXPECT_TRUE(at::equal(network->forward(x, t, {}, none, ctx).value,
                        network->forward(x, t, {}, zero, ctx).value));
}

}  // namespace
}  // namespace flowmap
