// Low-rank adapters: gradients, merging, their files, and the sizes of the published one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/model_checksum.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/lora.h"
#include "flowmap/preconditioning.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/adapter.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using ::testing::HasSubstr;

const std::string kUnetSpec = R"({"network": {"type": "ddpmpp", "model_channels": 8,
  "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]},
  "preconditioning": {"type": "flow"}, "sample_shape": [2, 8, 8], "label_dim": 3})";

// No weight is zero.
std::shared_ptr<Model> shaken_model(std::uint64_t seed) {
  auto model = make_model(Config::from_text(kUnetSpec, "spec"), seed);
  const at::NoGradGuard no_grad;
  std::uint64_t k = 0;
  for (at::Tensor& p : model->parameters())
    p.add_(Draw(seed, k++, 1).normal("shake", p.sizes())[0] * 0.05);
  return model;
}

void shake_factors(const Lora& lora) {
  std::uint64_t k = 0;
  for (const NamedTensor& factor : lora.factors())
    factor.tensor.add_(Draw(9, k++, 1).normal("f", factor.tensor.sizes())[0] * 0.1);
}

at::Tensor output(Model& model) {
  const at::NoGradGuard no_grad;
  const Draw draw(1, 0, 3);
  Context context;
  return model.velocity(draw.normal("x", {2, 8, 8}), draw.uniform("t", {}), {}, context)
      .value;
}

// Every weight of the model, bit for bit.
bool same_weights(const Model& a, const Model& b) {
  const auto theirs = b.named_parameters();
  for (const auto& item : a.named_parameters())
    if (!at::equal(item.value(), theirs[item.key()])) return false;
  return true;
}

TEST(Lora, StartsAsTheNetwork) {
  const auto model = shaken_model(2);
  const at::Tensor before = output(*model);
  const std::string checksum = model_checksum(*model);
  Lora lora(model, {.rank = 3, .alpha = 2}, 5);
  lora.merge();
  EXPECT_TRUE(at::equal(output(*model), before));
  EXPECT_EQ(lora.base_checksum(), checksum);
  const auto layers = lora_layers(*model, lora.options());
  ASSERT_EQ(lora.factors().size(), 2 * layers.size());
  int64_t count = 0;
  for (const auto& [name, shape] : layers) {
    int64_t in = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) in *= shape[i];
    count += 3 * (in + shape[0]);
  }
  EXPECT_EQ(lora.parameter_count(), count);
  for (std::size_t i = 0; i < lora.factors().size(); i += 2) {
    const at::Tensor& a = lora.factors()[i].tensor;
    const double bound = 1 / std::sqrt(static_cast<double>(a.size(1)));
    EXPECT_LE(a.abs().max().item<double>(), bound) << lora.factors()[i].name;
    EXPECT_GT(a.abs().max().item<double>(), 0.6 * bound) << lora.factors()[i].name;
    EXPECT_EQ(lora.factors()[i + 1].tensor.count_nonzero().item<int64_t>(), 0);
  }
  // Adapted weights carry gradients, the rest is frozen.
  for (const auto& item : model->named_parameters()) {
    const std::string name = item.key();
    const bool adapted = name.ends_with(".weight") &&
                         layers.contains(name.substr(0, name.size() - 7));
    EXPECT_EQ(item.value().requires_grad(), adapted) << name;
  }
  EXPECT_TRUE(layers.contains("model.map_layer0"));
}

TEST(Lora, ExcludesByName) {
  const auto model = shaken_model(2);
  const auto all = lora_layers(*model, {});
  const auto some = lora_layers(*model, {.exclude = {"qkv", "proj"}});
  EXPECT_LT(some.size(), all.size());
  for (const auto& [name, shape] : some) EXPECT_EQ(name.find("qkv"), std::string::npos);
  EXPECT_THROW(Lora(model, {.exclude = {"model"}}, 1), UsageError);
  EXPECT_THROW(read_lora_options(Config::from_text(R"({"rank": 0})", "t")), UsageError);
}

// Against autograd through W0 + scale B A, two backward passes added.
TEST(Lora, GradientsOfTheFactors) {
  const auto model = shaken_model(2);
  Lora lora(model, {.rank = 3, .alpha = 2}, 5);
  shake_factors(lora);
  const auto base = shaken_model(2);
  lora.merge();
  const auto loss_of = [&](std::uint64_t seed) {
    const Draw draw(seed, 0, 4);
    Context context;
    const Condition condition{at::eye(4, 3), {}, {}};
    const at::Tensor v = model->velocity(draw.normal("x", {2, 8, 8}),
                                         draw.uniform("t", {}), condition, context).value;
    return (v * draw.normal("g", {2, 8, 8})).sum();
  };
  std::map<std::string, at::Tensor> of_weights;
  for (const std::uint64_t seed : {1, 2}) {
    loss_of(seed).backward();
    for (const auto& item : model->named_parameters())
      if (item.value().grad().defined()) {
        at::Tensor& sum = of_weights[item.key()];
        sum = sum.defined() ? sum + item.value().grad() : item.value().grad().clone();
      }
    lora.take_gradients();
  }
  const auto originals = base->named_parameters();
  for (std::size_t i = 0; i < lora.factors().size(); i += 2) {
    const std::string name = lora.factors()[i].name;
    const std::string weight = name.substr(0, name.size() - 7) + ".weight";
    at::Tensor a = lora.factors()[i].tensor.detach().clone().set_requires_grad(true);
    at::Tensor b = lora.factors()[i + 1].tensor.detach().clone().set_requires_grad(true);
    (merged_weight(originals[weight].detach(), a, b, 2.0 / 3) * of_weights.at(weight))
        .sum()
        .backward();
    for (const auto& [got, wanted] :
         {std::pair(lora.factors()[i].tensor.grad(), a.grad()),
          std::pair(lora.factors()[i + 1].tensor.grad(), b.grad())}) {
      ASSERT_TRUE(got.defined()) << name;
      const double scale = wanted.abs().max().item<double>();
      EXPECT_GT(scale, 0) << name;
      EXPECT_LT((got - wanted).abs().max().item<double>(), 1e-5 * scale + 1e-7) << name;
    }
  }
  for (const at::Tensor& p : model->parameters()) EXPECT_FALSE(p.grad().defined());
}

class LoraFile : public ::testing::Test {
 protected:
  void SetUp() override {
    save_snapshot(folder_ / "base.safetensors", *shaken_model(2), kUnetSpec,
                  {{"method", R"({"method": "flow_matching", "default_steps": 32})"}});
    model_ = shaken_model(2);
    lora_ = std::make_unique<Lora>(model_, LoraOptions{.rank = 2, .alpha = 3}, 5);
    shake_factors(*lora_);
    lora_->merge();
    save_adapter(path_, *lora_, lora_->factors(),
                 {{"method", R"({"default_sampler": "heun", "default_steps": 4})"},
                  {"images_seen", "7"}});
  }
  Snapshot base() const { return load_snapshot(folder_ / "base.safetensors"); }
  // What merging says, "merged" where it works.
  std::string merging(Snapshot& snapshot, bool force = false) const {
    try {
      merge_adapter(path_, snapshot, force);
    } catch (const Error& error) {
      return error.what();
    }
    return "merged";
  }
  testing::ScratchFolder folder_;
  std::filesystem::path path_ = folder_ / "adapter.safetensors";
  std::shared_ptr<Model> model_;
  std::unique_ptr<Lora> lora_;
};

TEST_F(LoraFile, GivesTheMergedNetworkBack) {
  Snapshot snapshot = base();
  EXPECT_FALSE(same_weights(*snapshot.model, *model_));
  const auto names = merge_adapter(path_, snapshot, false);
  EXPECT_EQ(2 * names.size(), lora_->factors().size());
  EXPECT_TRUE(same_weights(*snapshot.model, *model_));
  EXPECT_EQ(snapshot.defaults.sampler, "heun");
  EXPECT_EQ(snapshot.defaults.steps, 4);
  EXPECT_EQ(snapshot.metadata.at("images_seen"), "7");
  EXPECT_LT(std::filesystem::file_size(path_),
            std::filesystem::file_size(folder_ / "base.safetensors") / 2);
  // A copy with the same factors, whatever it held.
  const auto copy = shaken_model(3);
  lora_->merge_into(*copy, lora_->factors());
  const auto theirs = copy->named_parameters();
  for (const std::string& name : names)
    EXPECT_TRUE(at::equal(theirs[name], model_->named_parameters()[name])) << name;
}

TEST_F(LoraFile, RefusesAnotherNetwork) {
  Snapshot other;
  other.model = shaken_model(3);
  other.spec_json = kUnetSpec;
  EXPECT_THAT(merging(other), HasSubstr("made for another network"));
  EXPECT_TRUE(same_weights(*other.model, *shaken_model(3)));
  EXPECT_EQ(merging(other, true), "merged");
  Snapshot small;
  small.model = make_model(Config::from_text(R"({"network": {"type": "mlp", "width": 8,
    "depth": 2}, "preconditioning": {"type": "flow"}, "sample_shape": [2],
    "label_dim": 0})", "spec"), 1);
  EXPECT_THAT(merging(small, true), HasSubstr("which it lacks"));
}

TEST_F(LoraFile, RefusesBrokenFiles) {
  const auto metadata = SafetensorsReader(path_).metadata();
  const TensorMap whole = load_tensors(path_);
  Snapshot snapshot = base();
  std::filesystem::copy_file(folder_ / "base.safetensors", folder_ / "kept");
  std::filesystem::copy_file(folder_ / "base.safetensors", path_,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(merging(snapshot), HasSubstr("expected an adapter"));
  TensorMap cut = whole;
  cut.erase(std::prev(cut.end()));
  save_tensors(path_, cut, metadata);
  EXPECT_THAT(merging(snapshot), HasSubstr("lora_B"));
  TensorMap odd = whole;
  odd.begin()->second = at::zeros({2, 3});
  save_tensors(path_, odd, metadata);
  snapshot = base();
  EXPECT_THAT(merging(snapshot), HasSubstr("of another shape"));
  TensorMap sick = whole;
  sick.begin()->second = at::full_like(sick.begin()->second, NAN);
  save_tensors(path_, sick, metadata);
  EXPECT_THAT(merging(snapshot), HasSubstr("finite factors"));
}

// BOSS's networks of 256 x 256 (arXiv 2312.16414): 1,322,248 of 65,574,549 parameters.
TEST(Lora, PublishedSize) {
  const ShapesOnly shapes;
  const auto model = build_model(Config::from_text(R"({"network": {"type": "ncsnpp",
    "model_channels": 128, "channel_mult": [1, 1, 2, 2, 2, 2, 2], "num_blocks": 2,
    "attn_resolutions": [16], "encoder_type": "skip", "decoder_type": "skip"},
    "preconditioning": {"type": "flow"}, "sample_shape": [3, 256, 256], "label_dim": 0})", "spec"));
  int64_t count = 0;
  for (const auto& [name, shape] : lora_layers(*model, {.exclude = {"qkv", "proj"}})) {
    int64_t in = 1;
    for (std::size_t i = 1; i < shape.size(); ++i) in *= shape[i];
    count += 4 * (in + shape[0]);

  }
  // Theirs count the 128 frequencies of the Fourier embedding, which nobody trains.
  int64_t frequencies = 0;
  for (const auto& item : model->named_buffers())
    if (item.key().ends_with("freqs")) frequencies += item.value().numel();
  EXPECT_EQ(parameter_count(*model) + frequencies, 65'574'549);
  EXPECT_EQ(count, 1'322'248);
}

}  // namespace
}  // namespace flowmap
