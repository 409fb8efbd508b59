// network.type=unet2d and its files against diffusers' own UNet2DModel.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/model.h"
#include "flowmap/nn/init.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/snapshot.h"
#include "flowmap/weights/layout.h"
#include "tests/support/network_reference.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using nlohmann::json;
using testing::relative_error;

constexpr double kDoubleBound = 1e-10;

// A file that tests/reference/unet2d.py made: weights, inputs and answers in one.
struct Diffusers {
  TensorMap weights, others;
  std::string config;
  std::vector<std::string> order;

  explicit Diffusers(const std::string& name) {
    const fs::path path =
        testing::source_folder() / "tests/reference" / ("unet2d_" + name + ".safetensors");
    for (const auto& [key, tensor] : load_tensors(path)) {
      const bool other = key.starts_with("input.") || key == "output" || key == "jvp";
      (other ? others : weights)[key] = tensor;
    }
    const SafetensorsReader reader(path);
    config = reader.metadata().at("config");
    order = json::parse(reader.metadata().at("state_order")).get<decltype(order)>();
  }
  // As its folder opens.
  WeightSource source() const {
    WeightSource result;
    result.path = "unet";
    result.format = "diffusers";
    result.tensors = weights;
    result.config_json = config;
    return result;
  }
  Condition condition(int64_t classes) const {
    Condition c;
    if (others.contains("input.labels"))
      c.class_labels = at::one_hot(others.at("input.labels"), classes).to(at::kDouble);
    return c;
  }
};

std::shared_ptr<Model> model_of(const ImportedWeights& weights) {
  auto model = model_of_weights(weights.spec_json, weights.tensors, "unet");
  model->to(at::kDouble);
  return model;
}

Dual answer(Model& model, const Diffusers& theirs) {
  const at::NoGradGuard no_grad;
  const auto& t = theirs.others;
  Context ctx;
  return model.raw({t.at("input.x"), t.at("input.dx")}, {t.at("input.time"), t.at("input.dt")},
                   {}, theirs.condition(model.info().label_dim), ctx);
}

class Unet2d : public ::testing::TestWithParam<const char*> {};

TEST_P(Unet2d, AnswersAsDiffusersDoes) {
  const Diffusers theirs(GetParam());
  const ImportedWeights weights = import_weights(theirs.source());
  EXPECT_EQ(weights.layout, "diffusers_unet");
  const auto model = model_of(weights);
  std::vector<std::string> names;
  for (const auto& item : model->named_parameters())
    names.push_back(item.key().substr(std::string("model.").size()));
  EXPECT_EQ(names, theirs.order);
  const Dual out = answer(*model, theirs);
  EXPECT_LT(relative_error(out.value, theirs.others.at("output")), kDoubleBound);
  EXPECT_LT(relative_error(out.tangent, theirs.others.at("jvp")), kDoubleBound);
}

INSTANTIATE_TEST_SUITE_P(Reference, Unet2d, ::testing::Values("ddpm", "labels", "plain"));

TEST(Unet2dLabels, MixAndMayHaveARowForNone) {
  const Diffusers theirs("labels");
  const auto plain = model_of(import_weights(theirs.source()));
  // The same table, whose last row is no class now.
  const auto with_null =
      model_of(import_weights(theirs.source(), {"", R"({"label_dim": 2})"}));
  EXPECT_EQ(with_null->info().label_dim, 2);
  const at::NoGradGuard no_grad;
  const auto run = [&](Model& model, const at::Tensor& labels) {
    Context ctx;
    Condition c;
    c.class_labels = labels;
    return model.raw(theirs.others.at("input.x"), theirs.others.at("input.time"), {}, c, ctx)
        .value;
  };
  const at::Tensor last = at::eye(3, at::kDouble).narrow(0, 2, 1).expand({2, 3});
  const at::Tensor none = run(*plain, last);
  EXPECT_LT(relative_error(run(*with_null, {}), none), 1e-14);
  EXPECT_LT(relative_error(run(*with_null, at::zeros({2, 2})), none), 1e-14);
  EXPECT_GT(relative_error(run(*plain, {}), none), 1e-4);
  // Soft labels are the rows' mixture.
  const at::Tensor soft = at::tensor({.25, .75, 0.}, at::kDouble).expand({2, 3});
  auto table = plain->named_parameters()["model.class_embedding.weight"];
  const at::Tensor mixed = run(*plain, soft);
  table[2].copy_(table[0] * .25 + table[1] * .75);
  EXPECT_LT(relative_error(run(*plain, last), mixed), 1e-13);
}

// By hand, at [1, 4, 4], widths 4 and 8, embeddings of 16:
TEST(Unet2dCost, IsExact) {
  const auto cost = [](const std::string& more) {
    const Config options = Config::from_text(
        R"({"type": "unet2d", "block_out_channels": [4, 8], "layers_per_block": 1,
            "norm_num_groups": 2, "down_block_types": ["DownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", ")" + more + "}", "test");
    return build_network(options, {{1, 4, 4}, 0, 1, 0})->multiply_adds();
  };
  const auto resnet = [](int in, int out, int pixels) {
    return pixels * 9 * (in * out + out * out) + 16 * out + (in != out ? pixels * in * out : 0);
  };
  const int embedding = 4 * 16 + 16 * 16, ends = 16 * 9 * (4 + 4);
  const int down = resnet(4, 4, 16) + 4 * 9 * 4 * 4 + resnet(4, 8, 4);
  const int up = resnet(16, 8, 4) + resnet(12, 8, 4) + 16 * 9 * 8 * 8 +
                 resnet(12, 4, 16) + resnet(8, 4, 16);
  const int middle = 2 * resnet(8, 8, 4);
  const int attention = 4 * 4 * 8 * 8 + 2 * 4 * 4 * 8;
  const int without = embedding + ends + down + middle + up;
  EXPECT_EQ(cost(R"(UpBlock2D"], "add_attention": false)"), without);
  EXPECT_EQ(cost(R"(UpBlock2D"], "mid_block_type": "none")"), without - middle);
  EXPECT_EQ(cost(R"(UpBlock2D"])"), without + attention);
  EXPECT_EQ(cost(R"(AttnUpBlock2D"])"),
            without + attention + 2 * (4 * 16 * 4 * 4 + 2 * 16 * 16 * 4));
}

TEST(Unet2dOptions, WhatIsNotHereIsNamed) {
  const auto message = [](const std::string& options, int64_t side = 8,
                          int64_t label_dim = 0) {
    try {
      Config c = Config::from_text(
          R"({"type": "unet2d", "block_out_channels": [8, 16], "norm_num_groups": 4,
              "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
              "up_block_types": ["AttnUpBlock2D", "UpBlock2D"]})", "test");
      c.merge(Config::from_text("{" + options + "}", "more"));
      build_network(c, {{1, side, side}, label_dim, 1, 0});
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(message(R"("dropout": 0.1)"), "accepted");
  EXPECT_THAT(message(R"("down_block_types": ["SkipDownBlock2D", "DownBlock2D"])"),
              HasSubstr("'SkipDownBlock2D' is not here; DownBlock2D or AttnDownBlock2D"));
  EXPECT_THAT(message(R"("up_block_types": ["UpBlock2D"])"), HasSubstr("must agree"));
  EXPECT_THAT(message(R"("norm_num_groups": 3)"), HasSubstr("norm_num_groups=3"));
  EXPECT_THAT(message(R"("attn_norm_num_groups": 5)"), HasSubstr("attn_norm_num_groups=5"));
  EXPECT_THAT(message(R"("attention_head_dim": 12)"), HasSubstr("attention_head_dim=12"));
  EXPECT_THAT(message(R"("time_embedding_type": "fourier")"), HasSubstr("positional"));
  EXPECT_THAT(message(R"("act_fn": "gelu")"), HasSubstr("silu"));
  EXPECT_THAT(message(R"("downsample_type": "resnet")"), HasSubstr("conv"));
  EXPECT_THAT(message(R"("resnet_time_scale_shift": "spatial")"), HasSubstr("scale_shift"));
  EXPECT_THAT(message(R"("dropout": 0)", 7), HasSubstr("odd size"));
  EXPECT_THAT(message(R"("num_class_embeds": 9)", 8, 7), HasSubstr("num_class_embeds=9"));
  EXPECT_THAT(message(R"("num_class_embeds": 9)"), HasSubstr("label_dim"));
}

class Unet2dFiles : public ::testing::Test {
 protected:
  static const WeightLayout& layout() {
    return *std::find_if(weight_layouts().begin(), weight_layouts().end(), [](const auto& l) {
      return l.name == std::string("diffusers_unet");
    });
  }
  // As diffusers has it: beside the other parts of a pipeline.
  fs::path write(const TensorMap& tensors, const std::string& config) const {
    fs::create_directories(folder_ / "unet");
    save_tensors(folder_ / "unet/diffusion_pytorch_model.safetensors", tensors);
    write_file_atomic(folder_ / "unet/config.json", config);
    return folder_ / "unet";
  }
  static std::string refusal(const WeightSource& source, const ImportHints& hints = {}) {
    try {
      import_weights(source, hints);
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  }
  testing::ScratchFolder folder_;
};

TEST_F(Unet2dFiles, FoldersGoOutAndComeBack) {
  for (const char* name : {"ddpm", "labels", "plain"}) {
    SCOPED_TRACE(name);
    const Diffusers theirs(name);
    const ImportedWeights first = import_weights(theirs.source());
    const TensorMap written = layout().write(first.spec_json, first.tensors);
    ASSERT_EQ(written.size(), theirs.weights.size());
    for (const auto& [key, tensor] : theirs.weights) {
      ASSERT_TRUE(written.contains(key)) << key;
      EXPECT_TRUE(written.at(key).equal(tensor)) << key;
    }
    const std::string config = layout().write_config(first.spec_json);
    // The very configuration, up to what follows from the rest.
    json want = json::parse(theirs.config), got = json::parse(config);
    want["_class_name"] = "UNet2DModel";
    if (want["time_embedding_dim"].is_null())
      want["time_embedding_dim"] = 4 * want["block_out_channels"][0].get<int>();
    EXPECT_EQ(got, want);
    const ImportedWeights back = import_weights(open_weights(write(written, config)));
    EXPECT_EQ(json::parse(back.spec_json), json::parse(first.spec_json));
    const auto model = model_of(back);
    EXPECT_LT(relative_error(answer(*model, theirs).value, theirs.others.at("output")),
              kDoubleBound);
  }
}

TEST_F(Unet2dFiles, OldAttentionNamesAreTheSame) {
  const Diffusers theirs("ddpm");
  const std::vector<std::pair<std::string, std::string>> old = {
      {".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."},
      {".to_out.0.", ".proj_attn."}};
  TensorMap tensors;
  int renamed = 0;
  for (const auto& [key, tensor] : theirs.weights) {
    std::string name = key;
    for (const auto& [now, then] : old)
      if (const auto at = key.find(now); at != std::string::npos) {
        name.replace(at, now.size(), then);
        ++renamed;
      }
    tensors[name] = tensor;
  }
  ASSERT_EQ(renamed, 4 * 4 * 2);
  const auto model = model_of(import_weights(open_weights(write(tensors, theirs.config))));
  EXPECT_LT(relative_error(answer(*model, theirs).value, theirs.others.at("output")),
            kDoubleBound);
}

TEST_F(Unet2dFiles, SchedulersTellTheDiffusion) {
  const Diffusers theirs("plain");
  const fs::path unet = write(theirs.weights, theirs.config);
  const auto preconditioning = [&] {
    return json::parse(import_weights(open_weights(unet)).spec_json)["preconditioning"];
  };
  EXPECT_EQ(preconditioning(), json::parse(R"({"type": "ddpm"})"));
  const auto say = [](const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    write_file_atomic(path, text);
  };
  say(folder_ / "scheduler/scheduler_config.json",
      R"({"beta_start": 0.001, "beta_end": 0.03, "num_train_timesteps": 500,
          "beta_schedule": "linear", "prediction_type": "epsilon"})");
  EXPECT_EQ(preconditioning(), json::parse(R"({"type": "ddpm", "beta_start": 0.001,
                                               "beta_end": 0.03, "M": 500})"));
  // The one in its own folder comes first.
  say(unet / "scheduler_config.json", R"({"beta_schedule": "squaredcos_cap_v2"})");
  EXPECT_THAT(refusal(open_weights(unet)), HasSubstr("squaredcos_cap_v2"));
  EXPECT_EQ(refusal(open_weights(unet), {"", R"({"preconditioning": {"type": "flow"}})"}),
            "accepted");
  say(unet / "scheduler_config.json", R"({"prediction_type": "v_prediction"})");
  EXPECT_THAT(refusal(open_weights(unet)), HasSubstr("v_prediction"));
  say(unet / "scheduler_config.json", "[]");
  EXPECT_THROW(open_weights(unet), DataError);
}

TEST_F(Unet2dFiles, AsksForWhatNobodySays) {
  const Diffusers theirs("ddpm");
  WeightSource bare = theirs.source();
  bare.config_json = "";
  EXPECT_THAT(refusal(bare), HasSubstr("norm_eps"));
  EXPECT_THAT(refusal(bare), HasSubstr("network.norm_num_groups=N"));
  const std::string options = R"("network": {"norm_num_groups": 2, "norm_eps": 1e-6,
      "flip_sin_to_cos": false, "freq_shift": 1, "downsample_padding": 0,
      "attention_head_dim": null})";
  EXPECT_THAT(refusal(bare, {"", "{" + options + "}"}), HasSubstr("sample_shape=[2,H,W]"));
  const ImportHints all = {"", "{" + options + R"(, "sample_shape": [2, 8, 8]})"};
  const auto model = model_of(import_weights(bare, all));
  EXPECT_LT(relative_error(answer(*model, theirs).value, theirs.others.at("output")),
            kDoubleBound);

  json config = json::parse(theirs.config);
  config["sample_size"] = nullptr;
  bare.config_json = config.dump();
  EXPECT_THAT(refusal(bare), HasSubstr("sample_shape=[2,H,W]"));
  config["sample_size"] = {8, 16};
  bare.config_json = config.dump();
  EXPECT_EQ(json::parse(import_weights(bare).spec_json)["sample_shape"], json({2, 8, 16}));
  config["class_embed_type"] = "timestep";
  bare.config_json = config.dump();
  EXPECT_THAT(refusal(bare), HasSubstr("class_embed_type \"timestep\""));
  // Nothing said is 8 channels a head there.
  config = json::parse(theirs.config);
  config.erase("attention_head_dim");
  bare.config_json = config.dump();
  EXPECT_EQ(json::parse(import_weights(bare).spec_json)["network"]["attention_head_dim"], 8);
  // Another network of the same program.
  bare.tensors["mid_block.attentions.0.transformer_blocks.0.norm1.weight"] = at::ones({8});
  EXPECT_THAT(refusal(bare), HasSubstr("a known program"));
}

TEST_F(Unet2dFiles, TwoTimesAreNotWritten) {
  const Diffusers theirs("plain");
  const ImportedWeights weights = import_weights(
      theirs.source(), {"", R"({"preconditioning": {"type": "flow", "two_times": true}})"});
  EXPECT_TRUE(layout().write(weights.spec_json, weights.tensors).empty());
}

}  // namespace
}  // namespace flowmap
