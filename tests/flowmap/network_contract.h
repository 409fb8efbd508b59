// The networks that keep the registry's promises, each in its forms, and the fixture that
// evaluates them: network_contract_test.cpp, network_guidance_test.cpp.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/network.h"
#include "flowmap/nn/init.h"

namespace flowmap {

struct ContractCase {
  std::string name;     // of the test
  std::string options;  // of the network, JSON
  NetworkShape shape;
};

inline std::vector<ContractCase> contract_cases() {
  const std::string small =
      R"("model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1,
         "attn_resolutions": [4])";
  const std::vector<int64_t> image = {2, 8, 8};
  std::vector<ContractCase> cases;
  for (const char* type : {"ddpmpp", "ncsnpp"}) {
    const std::string head = R"({"type": ")" + std::string(type) + "\", " + small;
    cases.push_back({std::string(type) + "_one", head + "}", {image, 0, 1, 0}});
    cases.push_back({std::string(type) + "_gap", head + "}", {image, 3, 2, 0}});
    cases.push_back({std::string(type) + "_s_t",
                     head + R"(, "time_embedding": "s_t"})", {image, 0, 2, 0}});
    cases.push_back({std::string(type) + "_encoder_decoder",
                     head + R"(, "time_embedding": "encoder_decoder"})",
                     {image, 3, 2, 0}});
    cases.push_back({std::string(type) + "_patch_out",
                     head + R"(, "patch": 2, "adaptive_scale": true, "num_heads": 2})",
                     {image, 0, 1, 3}});
    cases.push_back({std::string(type) + "_qk_norm", head + R"(, "qk_norm": true})",
                     {image, 0, 2, 0}});
  }
  for (const char* type : {"dit", "sit"}) {
    const std::string head = R"({"type": ")" + std::string(type) +
                             R"(", "hidden_size": 16, "depth": 3, "num_heads": 2,
                                "frequency_embedding_size": 8)";
    const std::string plain = head + R"(, "learn_sigma": false)";
    const std::string name = type;
    cases.push_back({name + "_labels", plain + "}", {image, 3, 1, 0}});
    cases.push_back({name + "_out", head + R"(, "patch_size": 4, "class_dropout_prob": 0})",
                     {image, 3, 1, 4}});
    cases.push_back({name + "_qk_norm", plain + R"(, "qk_norm": "rms"})",
                     {{1, 8, 4}, 0, 1, 0}});
    cases.push_back({name + "_gap", plain + "}", {image, 3, 2, 0}});
    cases.push_back({name + "_s_t", plain + R"(, "time_embedding": "s_t"})",
                     {image, 0, 2, 0}});
    cases.push_back({name + "_encoder_decoder",
                     plain + R"(, "time_embedding": "encoder_decoder"})",
                     {image, 3, 2, 0}});
  }
  // The smallest with a head: 64 channels at the lower level.
  const std::string adm =
      R"({"type": "adm", "model_channels": 8, "channel_mult": [1, 8], "num_blocks": 1,
          "attn_resolutions": [4])";
  cases.push_back({"adm_one", adm + "}", {image, 3, 1, 0}});
  cases.push_back({"adm_qk_norm", adm + R"(, "qk_norm": true})", {image, 0, 1, 0}});
  cases.push_back({"adm_out", adm + "}", {image, 0, 1, 4}});
  cases.push_back({"adm_gap", adm + "}", {image, 3, 2, 0}});
  cases.push_back({"adm_s_t", adm + R"(, "time_embedding": "s_t"})", {image, 0, 2, 0}});
  cases.push_back({"adm_encoder_decoder", adm + R"(, "time_embedding": "encoder_decoder"})",
                   {image, 3, 2, 0}});
  const std::string edm2 =
      R"({"type": "edm2", "channels_per_head": 8, "label_balance": 0.4, )" + small;
  const std::string edm2_plain =
      R"({"type": "edm2", "channels_per_head": 8, )" + small;
  cases.push_back({"edm2_one", edm2 + "}", {image, 3, 1, 0}});
  cases.push_back({"edm2_out", edm2_plain + R"(, "resample_filter": [1, 3, 3, 1]})",
                   {image, 0, 1, 3}});
  for (const char* form : {"s_gap", "s_t", "encoder_decoder", "flow_maps"})
    cases.push_back({std::string("edm2_") + form,
                     edm2 + R"(, "time_embedding": ")" + form + "\"}", {image, 3, 2, 0}});
  const std::string unet2d =
      R"({"type": "unet2d", "block_out_channels": [8, 16], "norm_num_groups": 4,
          "layers_per_block": 1, "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
          "down_block_types": ["DownBlock2D", "AttnDownBlock2D"])";
  cases.push_back({"unet2d_one", unet2d + R"(, "freq_shift": 1, "downsample_padding": 0})",
                   {image, 0, 1, 0}});
  cases.push_back({"unet2d_out",
                   unet2d + R"(, "resnet_time_scale_shift": "scale_shift",
                                "attention_head_dim": 8, "center_input_sample": true})",
                   {{2, 8, 4}, 3, 1, 4}});
  cases.push_back({"unet2d_gap", unet2d + "}", {image, 3, 2, 0}});
  cases.push_back({"unet2d_s_t",
                   unet2d + R"(, "time_embedding": "s_t", "flip_sin_to_cos": false})",
                   {image, 0, 2, 0}});
  cases.push_back({"unet2d_encoder_decoder",
                   unet2d + R"(, "time_embedding": "encoder_decoder"})",
                   {image, 3, 2, 0}});
  cases.push_back({"mlp_one", R"({"type": "mlp", "width": 16})", {{2}, 0, 1, 0}});
  cases.push_back({"mlp_two", R"({"type": "mlp", "width": 16})", {{2}, 4, 2, 0}});
  // With a guidance scale as an input: two times each way, or one.
  std::vector<ContractCase> guided;
  for (ContractCase c : cases) {
    if (c.shape.label_dim == 0 || c.name.starts_with("ncsnpp") ||
        c.name.starts_with("dit"))
      continue;
    c.name += "_guided";
    c.shape.guidance = true;
    guided.push_back(std::move(c));
  }
  cases.insert(cases.end(), guided.begin(), guided.end());
  return cases;
}

class NetworkContract : public ::testing::TestWithParam<ContractCase> {
 protected:
  // Weights away from zero everywhere: layers that start at zero prove nothing.
  void SetUp() override {
    const Config options = Config::from_text(GetParam().options, "test");
    network_ = make_network(options, GetParam().shape);
    options.check_all_read();
    move_weights(*network_);
  }
  static void move_weights(Network& network) {
    network.to(at::kDouble);
    network.eval();
    const at::NoGradGuard no_grad;
    for (auto& item : network.named_parameters())
      item.value().add_(draw_init(17, item.key(), item.value().sizes(), 1, 1,
                                  InitMode::kaiming_normal).to(at::kDouble) * 0.1);
  }

  static at::Tensor numbers(const std::string& name, int64_t batch, bool sample) {
    std::vector<int64_t> size = {batch};
    if (sample)
      size.insert(size.end(), GetParam().shape.sample.begin(),
                  GetParam().shape.sample.end());
    const at::Tensor normal =
        draw_init(23, name, size, 1, 1, InitMode::kaiming_normal).to(at::kDouble);
    return sample ? normal : normal.sigmoid();
  }
  struct Inputs {
    at::Tensor x, time, time2;
    Condition condition;
  };
  static Inputs inputs(int64_t batch) {
    Inputs in{numbers("x", batch, true), numbers("time", batch, false), {}, {}};
    if (GetParam().shape.times == 2) in.time2 = numbers("time2", batch, false);
    if (const int64_t labels = GetParam().shape.label_dim)
      in.condition.class_labels =
          at::eye(labels, at::kDouble).index_select(0, at::arange(batch) % labels);
    if (GetParam().shape.guidance)
      in.condition.guidance = numbers("a", batch, false) * 10;
    return in;
  }
  at::Tensor evaluate(const Inputs& in) {
    Context ctx;
    const Dual second = in.time2.defined() ? Dual(in.time2) : Dual();
    return network_->forward(Dual(in.x), Dual(in.time), second, in.condition, ctx).value;
  }

  std::shared_ptr<Network> network_;
};

}  // namespace flowmap
