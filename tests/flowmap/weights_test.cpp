// Weights of other programs: their files opened without executing them, their networks
// recognised, and the answers those programs gave.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/torch_file.h"
#include "flowmap/model.h"
#include "flowmap/nn/init.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/snapshot.h"
#include "flowmap/weights/layout.h"
#include "tests/support/network_reference.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using ::testing::HasSubstr;
using testing::NetworkReference;
using testing::relative_error;

constexpr double kDoubleBound = 1e-10;

std::filesystem::path reference_file(const std::string& name) {
  return testing::reference_folder() / "networks" / name;
}

at::Tensor denoised(Model& model, const NetworkReference& reference) {
  const at::NoGradGuard no_grad;
  model.to(at::kDouble);
  Condition c;
  if (reference.input("class_labels").defined())
    c.class_labels = reference.input("class_labels").to(at::kDouble);
  if (reference.input("augment_labels").defined())
    c.augment_labels = reference.input("augment_labels").to(at::kDouble);
  Context ctx;
  return model.denoise(Dual(reference.at("input.x").to(at::kDouble)),
                       Dual(reference.at("input.sigma").to(at::kDouble)), c, ctx).value;
}

class EdmPickle : public ::testing::TestWithParam<const char*> {};

TEST_P(EdmPickle, AnswersAsEdmDoes) {
  const std::string name = GetParam();
  FM_NEED_FILE(reference_file(name + ".pkl"));
  const NetworkReference reference(name);
  const Snapshot snapshot = load_snapshot(reference_file(name + ".pkl"));
  EXPECT_EQ(snapshot.layout, "edm");
  EXPECT_EQ(snapshot.metadata.at("source_key"), "ema");
  EXPECT_LT(relative_error(denoised(*snapshot.model, reference), reference.at("output_f64")),
            kDoubleBound);
}

INSTANTIATE_TEST_SUITE_P(Reference, EdmPickle,
                         ::testing::Values("edm_snapshot_ddpmpp", "edm_snapshot_adm",
                                           "edm2_snapshot"));

TEST(WeightSource, KeepsTheTypeThatIsStored) {
  FM_NEED_FILE(reference_file("edm2_snapshot.pkl"));
  const WeightSource source = open_weights(reference_file("edm2_snapshot.pkl"));
  EXPECT_EQ(source.format, "pickle");
  for (const auto& [name, tensor] : source.tensors)
    EXPECT_EQ(tensor.scalar_type(), at::kHalf) << name;
  EXPECT_THAT(source.config_json, HasSubstr("\"channels_per_head\":8"));
}

TEST(WeightSource, ReadsTrainingStates) {
  FM_NEED_FILE(reference_file("edm_training_state.pt"));
  const NetworkReference after("edm_two_training_steps");
  const WeightSource source = open_weights(reference_file("edm_training_state.pt"));
  EXPECT_EQ(source.format, "torch.save");
  EXPECT_EQ(source.key, "net");
  EXPECT_THAT(source.other_keys, ::testing::Contains("optimizer_state"));
  int compared = 0;
  for (const auto& [name, tensor] : source.tensors) {
    if (!after.has("after." + name)) continue;
    EXPECT_TRUE(tensor.equal(after.at("after." + name))) << name;
    ++compared;
  }
  EXPECT_GT(compared, 100);
}

TEST(WeightSource, ListsForeignCheckpoints) {
  for (const char* name : {"ddpm_mnist_starter.pth", "sdaloglu_ddpm_mnist_all.pth"}) {
    const auto path = testing::data_folder() / "checkpoints" / name;
    FM_NEED_FILE(path);
    const WeightSource source = open_weights(path);
    EXPECT_EQ(source.tensors.size(), 29u) << name;
    EXPECT_EQ(source.tensors.at("alpha_t").sizes(), at::IntArrayRef({1001}));
    // The betas of its schedule: what the bytes mean is known as well.
    EXPECT_NEAR(source.tensors.at("beta_t")[1].item<double>(), 1e-4, 2e-5);
    try {
      import_weights(source);
      ADD_FAILURE() << "a network that is none of ours was taken";
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr("'alpha_t'"));
      EXPECT_THAT(error.what(), HasSubstr("a known program (flowmap, edm"));
    }
  }
}

// The weights of a reference file alone, as a file without any configuration has them.
WeightSource bare(const NetworkReference& reference, const std::string& name) {
  WeightSource source;
  source.path = name;
  source.format = "safetensors";
  static const std::vector<std::string> kOthers = {
      "input.", "output", "mid.", "cotangent", "grad", "tangent.", "jvp"};
  for (const auto& [key, tensor] : reference.tensors)
    if (std::none_of(kOthers.begin(), kOthers.end(),
                     [&](const auto& head) { return key.starts_with(head); }))
      source.tensors[key] = tensor;
  return source;
}

struct BareCase {
  const char* file;
  const char* options;  // what shapes cannot tell
};

class BareDenoiser : public ::testing::TestWithParam<BareCase> {};

TEST_P(BareDenoiser, IsRecognisedByItsShapes) {
  const std::string name = GetParam().file;
  FM_NEED_FILE(testing::network_file(name));
  const NetworkReference reference(name);
  const ImportedWeights weights =
      import_weights(bare(reference, name), {"", GetParam().options});
  EXPECT_EQ(weights.layout, "edm");
  const auto model = model_of_weights(weights.spec_json, weights.tensors, name);
  EXPECT_LT(relative_error(denoised(*model, reference), reference.at("output_f64")),
            kDoubleBound);
}

INSTANTIATE_TEST_SUITE_P(
    Reference, BareDenoiser,
    ::testing::Values(
        BareCase{"edm_ddpmpp_uncond", "{}"},
        BareCase{"edm_ddpmpp_cond_augment", R"({"preconditioning": {"sigma_data": 0.7}})"},
        BareCase{"edm_ncsnpp_augment", "{}"}, BareCase{"edm_song_skip_skip", "{}"},
        BareCase{"ve_ncsnpp_cond", R"({"preconditioning": {"type": "ve"}})"},
        BareCase{"edm_adm_cond_augment", "{}"}, BareCase{"iddpm_adm_small", "{}"},
        BareCase{"edm2_snapshot", R"({"network": {"channels_per_head": 8}})"}),
    [](const auto& row) { return std::string(row.param.file); });

TEST(WeightLayout, AsksForWhatShapesCannotTell) {
  FM_NEED_FILE(testing::network_file("edm2_snapshot"));
  FM_NEED_FILE(testing::network_file("dit_learn_sigma"));
  const auto message = [](const std::string& name, const ImportHints& hints) {
    try {
      import_weights(bare(NetworkReference(name), name), hints);
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(message("edm2_snapshot", {}), HasSubstr("network.channels_per_head=N"));
  EXPECT_THAT(message("dit_learn_sigma", {}), HasSubstr("--arch dit"));
  EXPECT_THAT(message("dit_learn_sigma", {"dit"}), HasSubstr("network.num_heads=N"));
}

class BareTransformer : public ::testing::TestWithParam<BareCase> {};

TEST_P(BareTransformer, IsRecognisedByItsShapes) {
  const std::string name = GetParam().file;
  FM_NEED_FILE(testing::network_file(name));
  const NetworkReference reference(name);
  const ImportHints hints = {name.substr(0, 3), GetParam().options};
  const ImportedWeights weights = import_weights(bare(reference, name), hints);
  EXPECT_EQ(weights.layout, "dit");
  const auto model = model_of_weights(weights.spec_json, weights.tensors, name);
  const at::NoGradGuard no_grad;
  model->to(at::kDouble);
  const int64_t classes = model->info().label_dim;
  Condition c;
  // y counts the null class as one more; ours has it as no class.
  c.class_labels =
      at::one_hot(reference.input("y"), classes + 1).narrow(1, 0, classes).to(at::kDouble);
  Context ctx;
  const at::Tensor out =
      model->raw(Dual(reference.input("x").to(at::kDouble)),
                 Dual(reference.input("t").to(at::kDouble)), {}, c, ctx).value;
  EXPECT_LT(relative_error(out, reference.at("output_f64")), kDoubleBound);
}

INSTANTIATE_TEST_SUITE_P(
    Reference, BareTransformer,
    ::testing::Values(
        BareCase{"dit_learn_sigma", R"({"network": {"num_heads": 3}})"},
        BareCase{"dit_no_sigma",
                 R"({"network": {"num_heads": 2, "class_dropout_prob": 0},
                     "label_dim": 4})"},
        BareCase{"sit_learn_sigma", R"({"network": {"num_heads": 2}})"}),
    [](const auto& row) { return std::string(row.param.file); });

TEST(WeightLayout, SlimFlowUnderItsOwnNames) {
  FM_NEED_FILE(testing::network_file("slimflow_ncsnpp"));
  const NetworkReference reference("slimflow_ncsnpp");
  WeightSource source = bare(reference, "slimflow_ncsnpp");
  const ImportedWeights weights =
      import_weights(source, {"", R"({"sample_shape": [3, 8, 8]})"});
  EXPECT_EQ(weights.layout, "slimflow");
  const auto model = model_of_weights(weights.spec_json, weights.tensors, "slimflow");
  const at::NoGradGuard no_grad;
  model->to(at::kDouble);
  Context ctx;
  const at::Tensor out =
      model->raw(Dual(reference.input("x").to(at::kDouble)),
                 Dual(reference.input("t").to(at::kDouble)), {}, {}, ctx).value;
  EXPECT_LT(relative_error(out, reference.at("output_f64")), kDoubleBound);
}

class WeightFiles : public ::testing::Test {
 protected:
  std::filesystem::path path(const std::string& name) const { return folder_ / name; }
  static std::vector<at::Tensor>& kept() {
    static std::vector<at::Tensor> tensors;
    return tensors;
  }
  static std::vector<TorchItem> items(const TensorMap& tensors) {
    std::vector<TorchItem> result;
    for (const auto& [name, tensor] : tensors) {
      kept().push_back(tensor.contiguous());
      result.push_back({name, file_dtype(tensor.scalar_type()), tensor.sizes().vec(),
                        {static_cast<const std::byte*>(kept().back().const_data_ptr()),
                         kept().back().nbytes()}});
    }
    return result;
  }
  static TensorMap state(const Model& model) {
    TensorMap result;
    for (const auto& item : model.named_parameters()) result[item.key()] = item.value();
    for (const auto& item : model.named_buffers()) result[item.key()] = item.value();
    return result;
  }
  // Weights away from zero.
  static std::shared_ptr<Model> random_model(const std::string& spec) {
    auto model = make_model(Config::from_text(spec, "test"), 3);
    const at::NoGradGuard no_grad;
    for (auto& item : model->named_parameters())
      item.value().add_(draw_init(5, item.key(), item.value().sizes(), 1, 1,
                                  InitMode::kaiming_normal) * 0.1);
    model->eval();
    return model;
  }

  testing::ScratchFolder folder_;
};

const char* const kTinyDit = R"({"network": {"type": "dit", "hidden_size": 16, "depth": 2,
  "num_heads": 2, "patch_size": 2}, "preconditioning": {"type": "ddpm"},
  "sample_shape": [3, 8, 8], "label_dim": 4})";

TEST_F(WeightFiles, DiffusersFoldersGoOutAndComeBack) {
  const auto model = random_model(kTinyDit);
  const TensorMap tensors = state(*model);
  const auto layout =
      std::find_if(weight_layouts().begin(), weight_layouts().end(),
                   [](const auto& l) { return l.name == std::string("diffusers_dit"); });
  ASSERT_NE(layout, weight_layouts().end());
  const TensorMap theirs = layout->write(kTinyDit, tensors);
  EXPECT_TRUE(theirs.contains("transformer_blocks.1.norm1.emb.timestep_embedder.linear_1."
                              "weight"));
  std::filesystem::create_directories(path("dit"));
  save_tensors(path("dit/diffusion_pytorch_model.safetensors"), theirs);
  write_file_atomic(path("dit/config.json"), layout->write_config(kTinyDit));
  const ImportedWeights back = import_weights(open_weights(path("dit")));
  EXPECT_EQ(back.layout, "diffusers_dit");
  for (const auto& [name, tensor] : tensors) {
    if (name.ends_with("pos_embed")) continue;  // theirs is computed
    ASSERT_TRUE(back.tensors.contains(name)) << name;
    EXPECT_TRUE(back.tensors.at(name).equal(tensor)) << name;
  }
  const auto again = model_of_weights(back.spec_json, back.tensors, path("dit"));
  EXPECT_TRUE(state(*again).at("model.pos_embed").equal(tensors.at("model.pos_embed")));

  // A block with another embedding than the first is no DiT.
  TensorMap broken = theirs;
  at::Tensor& other =
      broken["transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias"];
  other = other + 1;
  save_tensors(path("dit/diffusion_pytorch_model.safetensors"), broken);
  EXPECT_THROW(import_weights(open_weights(path("dit"))), DataError);
}

TEST_F(WeightFiles, MeanFlowLearnedOnTheOtherClock) {
  const std::string spec = R"({"network": {"type": "sit", "hidden_size": 16, "depth": 2,
    "num_heads": 2, "patch_size": 2, "learn_sigma": false},
    "preconditioning": {"type": "flow", "two_times": true}, "sample_shape": [4, 8, 8],
    "label_dim": 3})";
  const auto model = random_model(spec);
  TensorMap theirs;
  for (const auto& [name, tensor] : state(*model)) {
    std::string bare_name = name.substr(std::string("model.").size());
    if (bare_name.starts_with("gap_embedder."))
      bare_name = "r_embedder." + bare_name.substr(std::string("gap_embedder.").size());
    theirs[bare_name] = tensor;
  }
  std::vector<TorchSection> sections = {{"model", items(TensorMap{{"x", at::zeros({2})}})},
                                        {"ema", items(theirs)}};
  write_torch_file(path("meanflow.pt"), sections);
  const Snapshot snapshot =
      load_snapshot(path("meanflow.pt"), {"", {"", R"({"network": {"num_heads": 2}})"}});
  EXPECT_EQ(snapshot.layout, "dit");
  EXPECT_EQ(snapshot.model->info().kind, ModelKind::flow_map);
  const at::NoGradGuard no_grad;
  Context ctx;
  const at::Tensor x = draw_init(1, "x", {2, 4, 8, 8}, 1, 1, InitMode::kaiming_normal);
  const at::Tensor s = at::tensor({0.F, .25F}), t = at::tensor({1.F, .75F});
  // Noise at 1 there: u(z, r = 1 - t, t = 1 - s), a function of (1 - s, t - s), and
  // z_r = z_t - (t - r) u.
  const at::Tensor u = model->raw(x, 1 - s, t - s, {}, ctx).value;
  const at::Tensor mine =
      snapshot.model->average_velocity(x, s, t, {}, ctx).value;
  EXPECT_TRUE(at::allclose(mine, -u, 1e-6, 1e-6));
  EXPECT_GT(u.abs().max().item<double>(), 1e-3);
}

TEST_F(WeightFiles, AveragesAreTakenFirstAndKeysPick) {
  const auto model = random_model(kTinyDit);
  TensorMap net, ema;
  for (const auto& [name, tensor] : state(*model)) {
    const std::string bare_name = name.substr(std::string("model.").size());
    net["module." + bare_name] = tensor;
    ema["_orig_mod." + bare_name] = tensor + 1;
  }
  std::vector<TorchSection> sections = {{"net", items(net)}, {"net_ema", items(ema)}};
  write_torch_file(path("c.pt"), sections);
  const std::string name = "t_embedder.mlp.0.bias";
  const at::Tensor want = state(*model).at("model." + name);
  EXPECT_TRUE(open_weights(path("c.pt")).tensors.at(name).equal(want + 1));
  EXPECT_TRUE(open_weights(path("c.pt"), "net").tensors.at(name).equal(want));
  try {
    open_weights(path("c.pt"), "emma");
    ADD_FAILURE() << "a key that is not there was taken";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("net_ema"));
  }
}

TEST_F(WeightFiles, ShardsAreOne) {
  save_tensors(path("m-1.safetensors"), {{"enc.a", at::ones({2})}});
  save_tensors(path("m-2.safetensors"), {{"enc.b", at::ones({3})}});
  const auto index = [&](const std::string& map) {
    write_file_atomic(path("m.safetensors.index.json"),
                      "{\"weight_map\": " + map + "}");
    return open_weights(path("m.safetensors.index.json"));
  };
  const WeightSource both =
      index(R"({"enc.a": "m-1.safetensors", "enc.b": "m-2.safetensors"})");
  EXPECT_EQ(both.tensors.size(), 2u);
  EXPECT_EQ(both.tensors.at("enc.b").size(0), 3);
  EXPECT_THROW(index(R"({"enc.a": "../m-1.safetensors"})"), DataError);
  EXPECT_THROW(index(R"({"enc.c": "m-1.safetensors"})"), DataError);
  EXPECT_THROW(index(R"({"enc.a": 5})"), DataError);
  write_file_atomic(path("m.safetensors.index.json"), "[]");
  EXPECT_THROW(open_weights(path("m.safetensors.index.json")), DataError);
}

// A header of 128 bytes (0x80) begins as a pickle does.
TEST_F(WeightFiles, HeadersMayBeginAsPicklesDo) {
  std::string note;
  for (int i = 0; i < 256; ++i) {
    note += 'x';
    save_tensors(path("h.safetensors"), {{"a", at::ones({1})}}, {{"note", note}});
    EXPECT_EQ(open_weights(path("h.safetensors")).tensors.size(), 1u) << note.size();
  }
}

TEST_F(WeightFiles, OtherFilesAreRefused) {
  write_file_atomic(path("empty.pt"), "");
  write_file_atomic(path("text.pt"), "hello, this is no file of weights");
  std::filesystem::create_directories(path("folder"));
  for (const char* name : {"empty.pt", "text.pt", "folder", "missing.pt"}) {
    try {
      open_weights(path(name));
      ADD_FAILURE() << name << " was taken";
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr(name));
    }
  }
}

// What a mapped tensor is made of must not change under its reader.
TEST_F(WeightFiles, WritingToWeightsLeavesTheFileAlone) {
  const auto model = random_model(kTinyDit);
  save_snapshot(path("a.safetensors"), *model, kTinyDit, {});
  const std::string before = read_file(path("a.safetensors"));
  const Snapshot snapshot = load_snapshot(path("a.safetensors"));
  const at::NoGradGuard no_grad;
  for (at::Tensor& p : snapshot.model->parameters()) p.fill_(7);
  EXPECT_EQ(read_file(path("a.safetensors")), before);
  EXPECT_EQ(snapshot.model->parameters()[0].flatten()[0].item<float>(), 7);
}

// Every tensor of every known program, in shapes that its program never had.
TEST_F(WeightFiles, WrongShapesAreErrorsOfTheFile) {
  const std::string edm = R"({"network": {"type": "TYPE", "model_channels": 64,
    "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [4]}, "preconditioning":
    {"type": "PRECOND"}, "sample_shape": [3, 8, 8], "label_dim": 2})";
  const auto of = [&](const char* type, const char* around) {
    std::string text = edm;
    text.replace(text.find("TYPE"), 4, type);
    return text.replace(text.find("PRECOND"), 7, around);
  };
  const std::string song = of("ddpmpp", "edm"), adm = of("adm", "edm"),
                    edm2 = of("edm2", "edm2");
  const ImportHints dit = {"dit", R"({"network": {"num_heads": 2}})"};
  int broken = 0;
  const auto sweep = [&](const WeightSource& whole, const ImportHints& hints) {
    const ImportedWeights good = import_weights(whole, hints);
    model_of_weights(good.spec_json, good.tensors, "whole");
    for (const auto& [name, tensor] : whole.tensors) {
      for (const std::vector<int64_t>& shape :
           std::vector<std::vector<int64_t>>{{}, {0}, {2}, {0, 0, 0, 0}, {1, 0, 3}}) {
        if (tensor.sizes() == at::IntArrayRef(shape)) continue;
        WeightSource source = whole;
        source.tensors[name] = at::ones(shape);
        try {
          const ImportedWeights bad = import_weights(source, hints);
          model_of_weights(bad.spec_json, bad.tensors, "broken");
        } catch (const DataError&) {
          ++broken;
        } catch (const UsageError&) {
          ++broken;
        } catch (const Error&) {
          ++broken;
        } catch (const std::exception& error) {
          ADD_FAILURE() << name << " " << at::IntArrayRef(shape) << ": " << error.what();
        }
      }
    }
  };
  for (const auto& [spec, hints] :
       {std::pair{song, ImportHints{}}, {adm, {}}, {edm2, {}}, {std::string(kTinyDit), dit}}) {
    const auto model = random_model(spec);
    for (const WeightLayout& layout : weight_layouts()) {
      if (!layout.write) continue;
      WeightSource source;
      source.path = "broken";
      source.tensors = layout.write(spec, state(*model));
      if (layout.write_config) source.config_json = layout.write_config(spec);
      if (!source.tensors.empty()) sweep(source, hints);
    }
  }
  EXPECT_GT(broken, 1000);
}

TEST_F(WeightFiles, WrongShapesOfSlimFlow) {
  FM_NEED_FILE(testing::network_file("slimflow_ncsnpp"));
  const WeightSource whole = bare(NetworkReference("slimflow_ncsnpp"), "slimflow");
  const ImportHints hints = {"", R"({"sample_shape": [3, 8, 8]})"};
  for (const auto& [name, tensor] : whole.tensors) {
    if (name == "sigmas") continue;
    for (const std::vector<int64_t>& shape :
         std::vector<std::vector<int64_t>>{{}, {0}, {2}, {0, 0, 0, 0}}) {
      WeightSource source = whole;
      source.tensors[name] = at::ones(shape);
      try {
        const ImportedWeights bad = import_weights(source, hints);
        model_of_weights(bad.spec_json, bad.tensors, "broken");
        ADD_FAILURE() << name << " " << at::IntArrayRef(shape) << " was taken";
      } catch (const Error&) {
      } catch (const std::exception& error) {
        ADD_FAILURE() << name << " " << at::IntArrayRef(shape) << ": " << error.what();
      }
    }
  }
}

// Lightning hangs a network below "net."; --arch says whose it is all the same. REPA's
// heads for training are no part of it.
TEST_F(WeightFiles, WrappersAndTrainingHeadsAreTakenOff) {
  const auto model = random_model(kTinyDit);
  TensorMap theirs;
  for (const auto& [name, tensor] : state(*model))
    theirs["net." + name.substr(std::string("model.").size())] = tensor;
  theirs["net.projectors.0.0.weight"] = at::ones({3, 3});
  WeightSource source;
  source.path = "lightning";
  source.tensors = theirs;
  const ImportHints hints = {"dit", R"({"network": {"num_heads": 2}})"};
  const ImportedWeights weights = import_weights(source, hints);
  EXPECT_EQ(weights.tensors.size(), state(*model).size());
  EXPECT_THAT(weights.assumed, ::testing::Contains(HasSubstr("no class")));
  EXPECT_THROW(import_weights(source, {"dot", "{}"}), UsageError);
  EXPECT_THROW(import_weights(source, {"dit", R"({"network": 3})"}), UsageError);
}

// What EDM has no class for must not come back as something else.
TEST_F(WeightFiles, VelocitiesAreNotWrittenAsDenoisers) {
  const std::string spec = R"({"network": {"type": "ddpmpp", "model_channels": 8,
    "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}, "preconditioning":
    {"type": "flow"}, "sample_shape": [1, 4, 4], "label_dim": 0})";
  const TensorMap tensors = state(*random_model(spec));
  for (const WeightLayout& layout : weight_layouts())
    if (layout.write) {
      EXPECT_TRUE(layout.write(spec, tensors).empty()) << layout.name;
    }
}

}  // namespace
}  // namespace flowmap
