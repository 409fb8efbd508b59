// LPIPS against the lpips package (weights and images from an integer hash), and distances in
// a classifier's features.
#include "flowmap/perceptual/lpips.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/perceptual/distance.h"
#include "flowmap/perceptual/trunks.h"
#include "flowmap/train/snapshot.h"
#include "flowmap/weights/source.h"
#include "tests/support/scratch.h"
#include "tests/support/training_reference.h"

namespace flowmap {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::difference;

// [-1/2, 1/2) for element i of parameter p.
double hashed(std::uint64_t i, std::uint64_t p) {
  auto h = static_cast<std::uint32_t>(i * 2654435761u + (p + 1) * 2246822519u);
  h ^= h >> 16;
  h *= 0x7feb352du;
  h ^= h >> 15;
  h *= 0x846ca68bu;
  h ^= h >> 16;
  return static_cast<double>(h) / 4294967296.0 - 0.5;
}

at::Tensor hashed_tensor(const std::vector<int64_t>& shape, std::uint64_t p, double scale) {
  const at::Tensor values = at::empty(shape, at::kDouble);
  double* const out = values.data_ptr<double>();
  for (int64_t i = 0; i < values.numel(); ++i)
    out[i] = scale * hashed(static_cast<std::uint64_t>(i), p);
  return values;
}

at::Tensor image(std::uint64_t k, int64_t side) {
  return hashed_tensor({1, 3, side, side}, 100000 + k, 2);
}

// The parameters in the order of the network: weight before bias, as the reference counts.
std::map<std::string, at::Tensor> hashed_trunk(const std::string& net) {
  std::map<std::string, at::Tensor> weights;
  std::uint64_t p = 0;
  const auto add = [&](const std::string& name, int64_t out, int64_t in, int64_t kernel) {
    const double fan_in = static_cast<double>(in * kernel * kernel);
    weights["features." + name + ".weight"] =
        hashed_tensor({out, in, kernel, kernel}, p++, std::sqrt(24 / fan_in));
    weights["features." + name + ".bias"] = hashed_tensor({out}, p++, 0.2);
  };
  for (const TrunkStep& step : trunk_layout(net).steps) {
    const std::string name = std::to_string(step.index);
    if (step.layer == TrunkLayer::convolution) add(name, step.out, step.in, step.kernel);
    if (step.layer != TrunkLayer::fire) continue;
    add(name + ".squeeze", step.squeeze, step.in, 1);
    add(name + ".expand1x1", step.out, step.squeeze, 1);
    add(name + ".expand3x3", step.out, step.squeeze, 3);
  }
  return weights;
}

std::filesystem::path heads_file(const std::string& net) {
  return testing::data_folder() / "lpips" / (net + ".pth");
}

Lpips reference_lpips(const LpipsOptions& options) {
  return {options, hashed_trunk(options.net), open_weights(heads_file(options.net)).tensors};
}

// `normalize` means that their program was given (x + 1) / 2 and stretched it again.
struct LpipsCase {
  Config config;
  at::Tensor a, b;
  explicit LpipsCase(Config read) : config(std::move(read)) {
    const int64_t side = config.integer("size");
    const std::string second = config.string("second"), first = config.string("first");
    const std::uint64_t k = first == "image 2" ? 2 : 0;
    a = image(k, side);
    const double share = second == "image 1" ? 0 : second.starts_with(".7") ? 0.7 : 0.5;
    b = share * a + (1 - share) * image(k + 1, side);
  }
};

TEST(LpipsReference, ValuesOfAllNetworks) {
  FM_NEED_METHOD_REFERENCE("lpips");
  FM_NEED_FILE(heads_file("vgg"));
  const testing::MethodReference group("lpips");
  int checked = 0;
  for (const std::string& name : group.names("")) {
    SCOPED_TRACE(name);
    const LpipsCase c(group.config(name));
    LpipsOptions options;
    options.net = c.config.string("net");
    options.resize = c.config.integer("resize", 0);
    Lpips lpips = reference_lpips(options);
    at::Tensor a = c.a.clone().set_requires_grad(true);
    const at::Tensor value = lpips(a, c.b);
    const double expected = group.item(name).number("value");
    EXPECT_NEAR(value.item<double>(), expected, 1e-10 * expected);
    const auto layers = group.item(name).numbers("per_layer", std::vector<double>{});
    const auto terms = lpips.layers(c.a, c.b);
    for (std::size_t i = 0; i < layers.size(); ++i)
      EXPECT_NEAR(terms[i].item<double>(), layers[i], 1e-10 * layers[i]) << i;
    if (name == "vgg_32_signed") {
      value.sum().backward();
      const at::Tensor want = group.at("vgg_32_signed/grad_first_image");
      EXPECT_LT((a.grad() - want).abs().max().item<double>(),
                1e-10 * want.abs().max().item<double>());
    }
    EXPECT_NEAR(lpips(c.a.to(at::kFloat), c.b.to(at::kFloat)).item<double>(), expected,
                1e-4 * expected);
    ++checked;
  }
  EXPECT_EQ(checked, 7);
}

TEST(LpipsReference, NothingFlowsIntoWeightsAndEqualImagesAreAtZero) {
  FM_NEED_FILE(heads_file("squeeze"));
  LpipsOptions options;
  options.net = "squeeze";
  Lpips lpips = reference_lpips(options);
  at::Tensor black = at::full({2, 1, 32, 32}, -1.0, at::kDouble).set_requires_grad(true);
  const at::Tensor zero = lpips(black, black.detach());
  EXPECT_EQ(zero.abs().max().item<double>(), 0);
  zero.sum().backward();
  EXPECT_TRUE(black.grad().isfinite().all().item<bool>());
  // Average pooling is another function.
  options.average_pooling = true;
  Lpips mean = reference_lpips(options);
  const at::Tensor a = image(0, 32), b = image(1, 32);
  EXPECT_GT(std::abs(mean(a, b).item<double>() - lpips(a, b).item<double>()), 1e-4);
}

// A feature vector of zeros has no direction, and must not poison the gradient.
TEST(UnitFeatures, ZeroHasAFiniteGradient) {
  at::Tensor f = at::zeros({1, 4, 2, 2}, at::kDouble);
  f[0][0][0][0] = 3;
  f.set_requires_grad(true);
  const at::Tensor unit = unit_features(f);
  EXPECT_NEAR(unit.square().sum().item<double>(), 1, 1e-9);
  unit.square().sum().backward();
  EXPECT_TRUE(f.grad().isfinite().all().item<bool>());
}

class LpipsFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    setenv("TORCH_HOME", (folder_ / "torch").c_str(), 1);
    unsetenv("FLOWMAP_LPIPS");
  }
  static std::string refused(const std::string& options) {
    try {
      make_perceptual_distance("lpips", Config::from_text(options, "test.json"));
    } catch (const std::exception& error) {
      return error.what();
    }
    return "accepted";
  }
  testing::ScratchFolder folder_;
};

TEST_F(LpipsFiles, MissingFilesAreNamedWithWhereTheyComeFrom) {
  EXPECT_THAT(refused("{}"),
              AllOf(HasSubstr("vgg16-397923af.pth"), HasSubstr("perceptual.trunk"),
                    HasSubstr("https://download.pytorch.org/models/"),
                    HasSubstr("FLOWMAP_LPIPS")));
  const auto trunk = folder_ / "trunk.safetensors";
  save_tensors(trunk, hashed_trunk("squeeze"));
  const std::string options =
      R"({"net": "squeeze", "trunk": ")" + trunk.string() + '"';
  EXPECT_THAT(refused(options + "}"),
              AllOf(HasSubstr("heads"), HasSubstr("lpips/weights/v0.1/squeeze.pth")));
  EXPECT_THAT(refused(options + R"(, "heads": "nowhere.pth"})"),
              AllOf(HasSubstr("nowhere.pth"), HasSubstr("does not exist")));
  // The trunk of another network.
  FM_NEED_FILE(heads_file("vgg"));
  EXPECT_THAT(refused(R"({"net": "vgg", "trunk": ")" + trunk.string() + R"(", "heads": ")" +
                      heads_file("vgg").string() + "\"}"),
              AllOf(HasSubstr("no such tensor"), HasSubstr("vgg16-397923af.pth")));
}

TEST_F(LpipsFiles, AreFoundInTheFolder) {
  FM_NEED_FILE(heads_file("squeeze"));
  save_tensors(folder_ / "squeezenet1_1-b8a52dc0.safetensors", hashed_trunk("squeeze"));
  std::filesystem::copy_file(heads_file("squeeze"), folder_ / "squeeze.pth");
  setenv("FLOWMAP_LPIPS", folder_.path().c_str(), 1);
  const auto found = make_perceptual_distance(
      "lpips", Config::from_text(R"({"net": "squeeze", "resize": 48})", "test"));
  EXPECT_EQ(found->name(), "lpips-squeeze");
  LpipsOptions options;
  options.net = "squeeze";
  options.resize = 48;
  Lpips direct = reference_lpips(options);
  const at::Tensor a = image(0, 32), b = image(1, 32);
  EXPECT_EQ((*found)(a, b).item<double>(), direct(a, b).item<double>());
  unsetenv("FLOWMAP_LPIPS");
}

TEST(Lpips, SmallImagesAreRefusedWithTheRemedy) {
  FM_NEED_FILE(heads_file("alex"));
  LpipsOptions options;
  options.net = "alex";
  Lpips lpips = reference_lpips(options);
  try {
    lpips(image(0, 28), image(1, 28));
    FAIL() << "accepted";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("perceptual.resize"));
  }
}

TEST(ClassifierDistance, GradientAgainstFiniteDifferences) {
  const std::string spec = R"({"network": {"type": "classifier_cnn", "channels": [4, 4, 4, 4],
    "squeeze": 4, "features": 6}, "preconditioning": {"type": "classifier"},
    "sample_shape": [1, 8, 8], "label_dim": 3})";
  const testing::ScratchFolder folder;
  const auto path = folder / "classifier.safetensors";
  save_snapshot(path, *make_model(Config::from_text(spec, "spec"), 3), spec, {});
  const auto distance = make_perceptual_distance(
      "classifier", Config::from_text(R"({"path": ")" + path.string() + "\"}", "test"));
  const Draw draw(3, 0, 4);
  const at::Tensor b = draw.normal("b", {1, 8, 8}).to(at::kDouble) * 0.5;
  at::Tensor a = (draw.normal("a", {1, 8, 8}).to(at::kDouble) * 0.5).set_requires_grad(true);
  const at::Tensor value = (*distance)(a, b);
  EXPECT_EQ(value.sizes(), (std::vector<int64_t>{4}));
  EXPECT_GT(value.min().item<double>(), 0.01);
  EXPECT_EQ((*distance)(b, b).abs().max().item<double>(), 0);
  value.sum().backward();
  const at::Tensor way = draw.normal("way", {1, 8, 8}).to(at::kDouble);
  const double h = 1e-5;
  const at::NoGradGuard no_grad;
  const double slope = ((*distance)(a + h * way, b) - (*distance)(a - h * way, b))
                           .sum().item<double>() / (2 * h);
  EXPECT_NEAR((a.grad() * way).sum().item<double>(), slope, 1e-7 * std::abs(slope) + 1e-9);
}

TEST(ClassifierDistance, TheShippedOneTellsImagesApart) {
  const auto distance =
      make_perceptual_distance("classifier", Config::from_text("{}", "test"));
  const at::Tensor a = Draw(3, 0, 2).normal("a", {1, 28, 28}).tanh();
  EXPECT_GT((*distance)(a, a.flip({3})).min().item<double>(), 0.1);
  EXPECT_EQ((*distance)(a, a).max().item<double>(), 0);
}

}  // namespace
}  // namespace flowmap
