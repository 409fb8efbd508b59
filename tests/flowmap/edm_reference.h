// EDM's reference networks: the model that its constructor arguments mean, and the checks
// that every file allows.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "flowmap/base/config.h"
#include "flowmap/model.h"
#include "flowmap/nn/init.h"
#include "tests/support/network_reference.h"

namespace flowmap::testing {

// The files' README: 1e-10 in double; in float32 ten times what the peers' own single and
// double runs differ by, at least 1e-5.
constexpr double kDoubleBound = 1e-10, kFloatBound = 1e-5;

// The specification that EDM's constructor arguments mean.
inline Config edm_spec(const NetworkReference& reference) {
  const Config given = Config::from_text(reference.config, "config");
  const Config kwargs = given.child("kwargs");
  const std::string type = given.string("class");
  Config spec;
  const std::string network = kwargs.string("model_type", "SongUNet");
  spec.set_json("network.type", network == "DhariwalUNet" ? "\"adm\"" : "\"ddpmpp\"",
                "test");
  const std::string size = kwargs.raw("img_resolution");
  const std::string channels = kwargs.raw("img_channels");
  spec.set_json("sample_shape", "[" + channels + "," + size + "," + size + "]", "test");
  for (const auto& [suffix, name] : {std::pair{".EDMPrecond", "edm"},
                                     {".VPPrecond", "vp"},
                                     {".VEPrecond", "ve"},
                                     {".iDDPMPrecond", "iddpm"}})
    if (type.ends_with(suffix))
      spec.set_override(std::string("preconditioning.type=") + name, "test");
  for (const std::string& key : kwargs.keys()) {
    if (key == "img_resolution" || key == "img_channels" || key == "model_type" ||
        key == "use_fp16")
      continue;
    const bool outer = key == "beta_d" || key == "beta_min" || key == "M" ||
                       key == "sigma_data" || key == "sigma_min" || key == "sigma_max";
    const std::string where = key == "label_dim" ? "" : outer ? "preconditioning."
                                                              : "network.";
    spec.set_json(where + key, kwargs.raw(key), "test");
  }
  return spec;
}

inline std::shared_ptr<Model> load_edm_model(const NetworkReference& reference) {
  const Config spec = edm_spec(reference);
  auto model = make_model(spec, 5);
  spec.check_all_read();
  load_weights(*model, reference, "", "model.");
  model->eval();
  return model;
}

// Every stored output, in both precisions.
inline void check_edm_outputs(const NetworkReference& reference, Model& model) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    model.to(type);
    const std::string out = type == at::kDouble ? "output_f64" : "output";
    const double bound = type == at::kDouble ? kDoubleBound : kFloatBound;
    const auto check = [&](const std::string& name, bool labels, bool augment) {
      if (!reference.has(name)) return false;
      Condition c;
      if (labels) c.class_labels = reference.input("class_labels");
      if (augment) c.augment_labels = reference.input("augment_labels");
      Context ctx;
      const Dual got = model.denoise(Dual(reference.at("input.x").to(type)),
                                     Dual(reference.at("input.sigma").to(type)), c, ctx);
      EXPECT_LT(relative_error(got.value, reference.at(name)), bound) << name;
      return true;
    };
    EXPECT_TRUE(check(out, true, true));
    check(out + ".no_class_labels", false, true);
    check(out + ".no_augment_labels", true, false);
  }
}

// Gradients, Jacobian-vector products, and gradients of these.
inline void check_edm_derivatives(const NetworkReference& reference, Model& model,
                                  double float_bound) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    model.to(type);
    const bool is_double = type == at::kDouble;
    const std::string suffix = is_double ? "_f64" : "";
    const double bound = is_double ? kDoubleBound : float_bound;
    const at::Tensor x = reference.at("input.x").to(type).clone().requires_grad_();
    const at::Tensor sigma = reference.at("input.sigma").to(type).clone().requires_grad_();
    const at::Tensor r = reference.at("cotangent").to(type);
    Condition c;
    c.class_labels = reference.input("class_labels");
    c.augment_labels = reference.input("augment_labels");
    Context ctx;
    const Dual out =
        model.denoise(Dual(x, reference.at("tangent.x").to(type)),
                      Dual(sigma, reference.at("tangent.sigma").to(type)), c, ctx);
    EXPECT_LT(relative_error(out.tangent, reference.at("jvp" + suffix)), bound);
    const auto check_weights = [&](const std::string& head) {
      int checked = 0;
      for (auto& item : model.named_parameters()) {
        const std::string key = head + suffix + "." + item.key();
        if (!reference.has(key)) continue;
        EXPECT_LT(relative_error(item.value().grad(), reference.at(key)), bound) << key;
        ++checked;
      }
      EXPECT_GT(checked, 2);
    };
    (out.value * r).sum().backward({}, /*retain_graph=*/true);
    EXPECT_LT(relative_error(x.grad(), reference.at("grad" + suffix + ".x")), bound);
    EXPECT_LT(relative_error(sigma.grad(), reference.at("grad" + suffix + ".sigma")),
              bound);
    check_weights("grad");
    model.zero_grad();
    (out.tangent * r).sum().backward();
    check_weights("jvp_grad");
    model.zero_grad();
  }
}

struct CountCase {
  const char* name;
  const char* spec;
  int64_t parameters;
  int64_t tensors;  // -1 in both: the peer cuts its tensors otherwise
  int64_t buffers;
};

// Trainable counts of a published configuration, to the unit.
inline void check_counts(const CountCase& c) {
  const Config spec = Config::from_text(c.spec, c.name);
  const NetworkShape shape{spec.integers("sample_shape"), spec.integer("label_dim", 0), 1,
                           0};
  const auto network = build_network(spec.child("network"), shape);
  EXPECT_EQ(parameter_count(*network), c.parameters) << c.name;
  if (c.tensors < 0) return;
  EXPECT_EQ(static_cast<int64_t>(network->parameters().size()), c.tensors) << c.name;
  int64_t buffers = 0;
  for (const at::Tensor& b : network->buffers()) buffers += b.numel();
  EXPECT_EQ(buffers, c.buffers) << c.name;
}

}  // namespace flowmap::testing
