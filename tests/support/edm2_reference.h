// Models of the "edm2" network from files of reference/networks, under our names.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "flowmap/model.h"
#include "tests/support/network_reference.h"

namespace flowmap::testing {

// "unet.x" for the network's parameter "model.x"; other names are the same.
inline std::string edm2_name(const std::string& ours) {
  return ours.starts_with("model.") ? "unet." + ours.substr(6) : ours;
}

inline void set_edm2_network(Config& spec, const Config& kwargs) {
  for (const std::string& key : kwargs.keys()) {
    if (key == "img_resolution" || key == "img_channels" || key == "use_fp16") continue;
    const bool outer = key == "sigma_data" || key == "logvar_channels";
    const std::string where = key == "label_dim" ? "" : outer ? "preconditioning."
                                                              : "network.";
    spec.set_json(where + key, kwargs.raw(key), "test");
  }
}

inline void set_edm2_shape(Config& spec, const Config& kwargs) {
  const std::string size = kwargs.raw("img_resolution");
  spec.set_json("sample_shape",
                "[" + kwargs.raw("img_channels") + "," + size + "," + size + "]", "test");
}

// EDM2's constructor arguments as a specification.
inline Config edm2_spec(const Config& kwargs) {
  Config spec = Config::from_text(
      R"({"network": {"type": "edm2"}, "preconditioning": {"type": "edm2"}})", "test");
  set_edm2_shape(spec, kwargs);
  set_edm2_network(spec, kwargs);
  return spec;
}

// The flow-map code's arguments as a specification: raw times, normalised learned weight.
inline Config flow_map_spec(const Config& kwargs) {
  Config spec = Config::from_text(R"({
    "network": {"type": "edm2", "time_embedding": "flow_maps"},
    "preconditioning": {"type": "flow", "two_times": true, "time_scale": 1,
                        "log_weight": true, "log_weight_scale": 1,
                        "log_weight_normalized": true}})", "test");
  set_edm2_shape(spec, kwargs);
  spec.set_json("label_dim", kwargs.raw("label_dim"), "test");
  spec.set_json("preconditioning.sigma_data", kwargs.raw("rescale"), "test");
  spec.set_json("preconditioning.log_weight_channels", kwargs.raw("logvar_channels"),
                "test");
  const Config unet = kwargs.child("unet_kwargs");
  for (const std::string& key : unet.keys()) {
    if (key == "block_kwargs") continue;
    spec.set_json("network." + key, unet.raw(key), "test");
  }
  set_edm2_network(spec, unet.child("block_kwargs"));
  return spec;
}

// Every weight of `model` from the file, and every weight of the file used.
inline void load_edm2_weights(Model& model, const NetworkReference& reference) {
  for (const auto& child : model.named_children()) {
    const std::string name = edm2_name(child.key() + ".");
    load_weights(*child.value(), reference, name, name);
  }
}

inline std::shared_ptr<Model> load_edm2(const NetworkReference& reference) {
  const Config given = Config::from_text(reference.config, "config");
  const bool flow_map = given.has("network");
  const Config spec = flow_map ? flow_map_spec(given.child("network"))
                               : edm2_spec(given.child("kwargs"));
  auto model = make_model(spec, 5);
  spec.check_all_read();
  load_edm2_weights(*model, reference);
  model->eval();
  return model;
}

// Compares the gradient of each parameter that the file has under `head`.
inline void check_edm2_gradients(const Model& model, const NetworkReference& reference,
                                 const std::string& head, double bound, int at_least) {
  int checked = 0;
  for (const auto& item : model.named_parameters()) {
    const std::string key = head + "." + edm2_name(item.key());
    if (!reference.has(key)) continue;
    EXPECT_LT(relative_error(item.value().grad(), reference.at(key)), bound) << key;
    ++checked;
  }
  EXPECT_GE(checked, at_least) << head;
}

}  // namespace flowmap::testing
