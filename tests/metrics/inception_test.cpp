#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/sha256.h"
#include "flowmap/formats/torch_file.h"
#include "flowmap/tensor_io.h"
#include "metrics/detectors/inception_weights.h"
#include "metrics/metric.h"
#include "metrics/resize.h"
#include "tests/metrics/inception_weights.h"
#include "tests/support/reference.h"
#include "tests/support/scratch.h"

namespace flowmap::metrics {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using namespace flowmap::testing;
using namespace flowmap::metrics::testing;

fs::path shared_weights() {
  return data_folder() / "inception/fid_inception_2015_to_mixed8_f32.safetensors";
}
fs::path metric_reference(const char* name) {
  return reference_folder() / "metrics" / name;
}

std::shared_ptr<Detector> open_inception(const fs::path& path,
                                         const std::string& mode = "legacy_tensorflow",
                                         const std::string& dtype = "float32") {
  Config options;
  if (!path.empty())
    options.set_json("path", nlohmann::json(path.string()).dump(), "test");
  options.set_json("mode", nlohmann::json(mode).dump(), "test");
  options.set_json("dtype", nlohmann::json(dtype).dump(), "test");
  return make_detector("inception", options);
}

std::vector<std::string> names_of(const std::vector<FeatureLayer>& layers) {
  std::vector<std::string> names;
  for (const FeatureLayer& layer : layers) names.push_back(layer.name);
  return names;
}

at::Tensor pattern(int64_t count, int64_t channels, int64_t edge) {
  return at::arange(count * channels * edge * edge)
      .mul(2654435761)
      .remainder(251)
      .to(at::kByte)
      .view({count, channels, edge, edge});
}

// Relative L2 of the worst row.
double worst_row(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor a = got.to(at::kDouble), b = want.to(at::kDouble);
  return ((a - b).norm(2, 1) / b.norm(2, 1)).max().item<double>();
}

template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

nlohmann::json json_of(const fs::path& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in);
}

// Every picture through every mode, against float64 runs of the tools.
TEST(Inception, FeaturesAsTheTools) {
  FM_NEED_FILE(shared_weights());
  FM_NEED_FILE(metric_reference("inception_features.safetensors"));
  const auto pictures = load_tensors(metric_reference("inception_inputs.safetensors"));
  const auto want = load_tensors(metric_reference("inception_features.safetensors"));
  const auto order = json_of(metric_reference("inception_report.json"))["images"];
  for (const auto& [folder, mode] :
       std::map<std::string, std::string>{{"clean", "clean"},
                                          {"legacy_tensorflow", "legacy_tensorflow"},
                                          {"pytorch_fid", "legacy_pytorch"}}) {
    const auto detector = open_inception(shared_weights(), mode);
    EXPECT_EQ(detector->name(), "inception");
    EXPECT_EQ(detector->mode(), mode);
    const std::vector<std::string> layers{"64", "spatial", "192", "768"};
    for (std::size_t i = 0; i < order.size(); ++i) {
      const at::Tensor& picture = pictures.at(order[i].get<std::string>());
      const auto got =
          detector->features(picture.permute({2, 0, 1}).unsqueeze(0), layers);
      for (std::size_t k = 0; k < layers.size(); ++k) {
        const std::string key =
            folder + "/" + (layers[k] == "spatial" ? "sfid2023" : layers[k]);
        if (!want.contains(key)) continue;
        const at::Tensor row = want.at(key).narrow(0, static_cast<int64_t>(i), 1);
        EXPECT_LT(worst_row(got[k], row), 1e-5) << key << " " << order[i];
      }
    }
  }
}

// The first wrong layer shows here.
TEST(Inception, LayersAsTheTools) {
  FM_NEED_FILE(shared_weights());
  FM_NEED_FILE(metric_reference("inception_layers.json"));
  const auto pictures = load_tensors(metric_reference("inception_inputs.safetensors"));
  const InceptionNetwork network(read_inception_weights(shared_weights()), at::kCPU,
                                 at::kFloat);
  const auto images = json_of(metric_reference("inception_layers.json"))["images"];
  ASSERT_EQ(images.size(), 2u);
  for (const auto& [name, layers] : images.items()) {
    const at::Tensor input = resize_pictures(
        pictures.at(name).permute({2, 0, 1}).unsqueeze(0), ResizeMode::legacy_tensorflow,
        299, 299, PixelScale::network);
    std::size_t seen = 0;
    network.run(input, [&](std::string_view stage, const at::Tensor& x) {
      if (!layers.contains(std::string(stage))) return true;
      const auto& want = layers[std::string(stage)];
      EXPECT_EQ(x.sizes().slice(1).vec(), want["shape_chw"].get<std::vector<int64_t>>());
      const double scale = want["max"].get<double>(), near = 2e-6 * scale;
      const at::Tensor y = x.to(at::kDouble);
      EXPECT_NEAR(y.mean().item<double>(), want["mean"].get<double>(), near) << stage;
      EXPECT_NEAR(y.std(false).item<double>(), want["std"].get<double>(), near) << stage;
      EXPECT_NEAR(y.max().item<double>(), scale, near) << stage;
      const auto corner = want["corner_c0_y0_x0..3"].get<std::vector<double>>();
      for (int64_t i = 0; i < 4; ++i)
        EXPECT_NEAR(y[0][0][0][i].item<double>(), corner[static_cast<std::size_t>(i)],
                    near)
            << stage;
      EXPECT_NEAR(y[0][-1][-1][-1].item<double>(), want["last_c_y_x"].get<double>(), near)
          << stage;
      ++seen;
      return true;
    });
    EXPECT_EQ(seen, layers.size()) << name;
  }
}

TEST(Inception, PartialWeightsSayWhatTheyLack) {
  FM_NEED_FILE(shared_weights());
  const auto detector = open_inception(shared_weights());
  EXPECT_THAT(names_of(detector->layers()), ElementsAre("768", "192", "64", "spatial"));
  EXPECT_EQ(detector->checksum(), sha256_file(shared_weights()));
  for (const char* layer : {"2048", "logits", "logits_unbiased"})
    EXPECT_THAT(detector->why_missing(layer),
                AllOf(HasSubstr("ends at mixed_8"),
                      HasSubstr("pt_inception-2015-12-05-6726825d.pth"),
                      HasSubstr("FLOWMAP_DETECTOR")));
  EXPECT_EQ(detector->why_missing("768"), "");
  EXPECT_EQ(detector->why_missing("fc7"), "");
  const std::string whole = "2048";
  EXPECT_THAT(error_of([&] { detector->features(pattern(1, 3, 32), {&whole, 1}); }),
              HasSubstr("ends at mixed_8"));
}

// Close is not enough for FID's name.
TEST(Inception, ChangedWeightsLoseTheName) {
  FM_NEED_FILE(shared_weights());
  const ScratchFolder folder;
  Tensors weights = load_tensors(shared_weights());
  weights["mixed_6_tower_conv.weight"] *= 1.2;
  save_tensors(folder / "changed.safetensors", weights);
  EXPECT_EQ(open_inception(folder / "changed.safetensors")->name(), "unknown_inception");
}

TEST(Inception, BatchesGrayAndOrder) {
  FM_NEED_FILE(shared_weights());
  const auto detector = open_inception(shared_weights(), "clean");
  const std::vector<std::string> layers{"192", "64"}, turned{"64", "192"};
  const at::Tensor gray = pattern(19, 1, 28);  // more than go through at once
  const auto all = detector->features(gray, layers);
  EXPECT_EQ(all[0].sizes(), (at::IntArrayRef{19, 192}));
  for (const int64_t i : {0, 15, 16, 18}) {
    const auto one =
        detector->features(gray.narrow(0, i, 1).expand({1, 3, 28, 28}), turned);
    EXPECT_LT(worst_row(all[1].narrow(0, i, 1), one[0]), 1e-6);
    EXPECT_LT(worst_row(all[0].narrow(0, i, 1), one[1]), 1e-6);
  }
  EXPECT_EQ(detector->features(gray.narrow(0, 0, 0), layers)[1].sizes(),
            (at::IntArrayRef{0, 64}));
}

TEST(Inception, Bf16IsNearAndNamed) {
  FM_NEED_FILE(shared_weights());
  const auto exact = open_inception(shared_weights());
  const auto coarse = open_inception(shared_weights(), "legacy_tensorflow", "bf16");
  EXPECT_EQ(coarse->name(), "inception");
  const std::vector<std::string> layers{"768", "192"};
  const at::Tensor pictures = pattern(2, 3, 64);
  const auto a = exact->features(pictures, layers);
  const auto b = coarse->features(pictures, layers);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(b[i].scalar_type(), at::kFloat);
    EXPECT_LT(worst_row(b[i], a[i]), 0.1);
    EXPECT_GT(worst_row(b[i], a[i]), 1e-5);
  }
}

// Random weights in each kind of file.
class InceptionFiles : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new ScratchFolder;
    const Tensors torchvision = random_torchvision_weights();
    write_torch(*folder_ / "torchvision.pth", torchvision);
    write_torch(*folder_ / "nvidia.pt", nvidia_weights(torchvision));
    save_tensors(*folder_ / "ours.safetensors", folded_weights(torchvision));
    // A short one for files that are wrong.
    stem_ = new Tensors(folded_weights(torchvision, ""));
  }
  static void TearDownTestSuite() {
    delete folder_;
    delete stem_;
  }
  static fs::path write_stem(const std::string& name, const Tensors& tensors) {
    save_tensors(*folder_ / name, tensors);
    return *folder_ / name;
  }
  static ScratchFolder* folder_;
  static Tensors* stem_;
};
ScratchFolder* InceptionFiles::folder_ = nullptr;
Tensors* InceptionFiles::stem_ = nullptr;

const std::vector<std::string> kAllLayers{"2048", "768", "192", "64", "spatial", "logits",
                                          "logits_unbiased"};

TEST_F(InceptionFiles, ThreeKindsGiveTheSame) {
  const at::Tensor pictures = pattern(2, 3, 40);
  std::vector<at::Tensor> first;
  for (const char* name : {"torchvision.pth", "nvidia.pt", "ours.safetensors"}) {
    const auto detector = open_inception(*folder_ / name);
    EXPECT_EQ(detector->name(), "unknown_inception") << "random weights are not FID's";
    EXPECT_EQ(names_of(detector->layers()), kAllLayers) << name;
    const auto features = detector->features(pictures, kAllLayers);
    if (first.empty()) first = features;
    for (std::size_t i = 0; i < kAllLayers.size(); ++i) {
      EXPECT_EQ(features[i].size(1), detector->layers()[i].dimensions);
      EXPECT_LT(worst_row(features[i], first[i]), 1e-6) << name << " " << kAllLayers[i];
    }
  }
  const auto weights = load_tensors(*folder_ / "ours.safetensors");
  EXPECT_TRUE(at::allclose(first[5] - first[6],
                           weights.at("logits.bias").expand({2, 1008}), 0, 1e-4));
}

// FID's variant of the last two blocks: the pooled branch of mixed_9 takes the mean without
// the padding, that of mixed_10 the maximum.
TEST_F(InceptionFiles, PoolsOfTheLastBlocks) {
  const InceptionWeights weights = read_inception_weights(*folder_ / "ours.safetensors");
  const InceptionNetwork network(weights, at::kCPU, at::kFloat);
  std::map<std::string, at::Tensor> seen;
  network.run(resize_pictures(pattern(1, 3, 40), ResizeMode::clean, 299, 299,
                              PixelScale::network),
              [&](std::string_view stage, const at::Tensor& x) {
                seen[std::string(stage)] = x.contiguous();
                return true;
              });
  const at::Tensor ones = at::ones_like(seen.at("mixed_8"));
  const auto sum = [](const at::Tensor& x) {
    return at::avg_pool2d(x, {3, 3}, {1, 1}, {1, 1}, false, true) * 9;
  };
  const at::Tensor means = sum(seen.at("mixed_8")) / sum(ones);
  const at::Tensor most = at::max_pool2d(seen.at("mixed_9"), {3, 3}, {1, 1}, {1, 1});
  for (const auto& [block, pooled] :
       std::map<std::string, at::Tensor>{{"mixed_9", means}, {"mixed_10", most}}) {
    const auto& layer = weights.convolutions.at(block + "_tower_2_conv");
    const at::Tensor want = at::conv2d(pooled, layer.weight, layer.bias).relu();
    const at::Tensor got = seen.at(block).narrow(1, 2048 - 192, 192);
    EXPECT_LT(((got - want).norm() / want.norm()).item<double>(), 1e-5) << block;
  }
}

// A real TorchScript archive, and the network written out in Python.
TEST_F(InceptionFiles, AsPyTorchComputesIt) {
  const char* python = std::getenv("FLOWMAP_PEERS_PYTHON");
  if (!python) GTEST_SKIP() << "FLOWMAP_PEERS_PYTHON names no Python with torch";
  std::string names;
  for (const InceptionConvolution& layer : inception_convolutions())
    names += std::string(layer.torchvision) + " " + dotted_name(layer) + " " +
             std::to_string(layer.stride) + " " +
             std::to_string(layer.same ? layer.height / 2 : 0) + " " +
             std::to_string(layer.same ? layer.width / 2 : 0) + "\n";
  put_file(*folder_ / "names.txt", names);
  const at::Tensor pictures = pattern(2, 3, 40);
  write_torch(*folder_ / "input.pt",
              {{"input", resize_pictures(pictures, ResizeMode::legacy_tensorflow, 299,
                                         299, PixelScale::network)}});
  const std::string script =
      (source_folder() / "tests/metrics/inception_peer.py").string();
  const std::string command = std::string(python) + " " + script + " " +
                              folder_->path().string() + " > " +
                              (*folder_ / "log.txt").string() + " 2>&1";
  ASSERT_EQ(std::system(command.c_str()), 0)
      << to_text(file_bytes(*folder_ / "log.txt"));
  const auto detector = open_inception(*folder_ / "script.pt");
  const TorchFile expected(*folder_ / "expected.pt");
  const std::vector<std::string> layers{"768", "2048", "logits"};
  const auto features = detector->features(pictures, layers);
  for (std::size_t i = 0; i < layers.size(); ++i)
    EXPECT_LT(worst_row(features[i],
                        to_tensor(expected.tensor(expected.at(layers[i])).read())),
              5e-6)
        << layers[i];
  const auto again =
      open_inception(*folder_ / "torchvision.pth")->features(pictures, layers);
  for (std::size_t i = 0; i < layers.size(); ++i)
    EXPECT_LT(worst_row(features[i], again[i]), 1e-6) << layers[i];
}

TEST_F(InceptionFiles, StemAloneGivesTheShallowLayers) {
  const auto detector = open_inception(write_stem("stem.safetensors", *stem_));
  EXPECT_THAT(names_of(detector->layers()), ElementsAre("192", "64"));
  EXPECT_THAT(detector->why_missing("768"), HasSubstr("ends at the stem"));
  EXPECT_EQ(detector->name(), "unknown_inception");
}

TEST_F(InceptionFiles, WrongFilesAreRefusedByName) {
  const auto refusal = [&](const fs::path& path) {
    return error_of([&] { open_inception(path); });
  };
  Tensors wrong = *stem_;
  wrong["conv_3.weight"] = at::zeros({64, 80, 1, 1});
  EXPECT_THAT(refusal(write_stem("shape.safetensors", wrong)),
              AllOf(HasSubstr("conv_3_weight"), HasSubstr("[80, 64, 1, 1]"),
                    HasSubstr("[64, 80, 1, 1]")));
  wrong = *stem_;
  wrong["conv_4.bias"] = at::full({192}, NAN);
  EXPECT_THAT(refusal(write_stem("nan.safetensors", wrong)), HasSubstr("conv_4_bias"));
  wrong = *stem_;
  wrong.erase("conv_2.bias");
  EXPECT_THAT(refusal(write_stem("missing.safetensors", wrong)),
              HasSubstr("conv_2_bias"));
  wrong = *stem_;
  wrong["mixed_1_conv.weight"] = at::zeros({64, 256, 1, 1});
  EXPECT_THAT(refusal(write_stem("hole.safetensors", wrong)), HasSubstr("mixed_1_conv"));
  wrong = *stem_;
  wrong["mixed_conv.weight"] = at::zeros({64, 192, 1, 1});
  EXPECT_THAT(refusal(write_stem("part.safetensors", wrong)),
              HasSubstr("mixed_conv_bias"));
  EXPECT_THAT(refusal(write_stem("other.safetensors", {{"w", at::zeros({2, 2})}})),
              HasSubstr("Conv2d_1a_3x3"));

  put_file(*folder_ / "text.pt", "these are no weights at all\n");
  EXPECT_THAT(refusal(*folder_ / "text.pt"), HasSubstr("text.pt"));
  put_file(*folder_ / "empty.pt", "");
  EXPECT_THAT(refusal(*folder_ / "empty.pt"), HasSubstr("0 bytes"));
  for (const char* name : {"torchvision.pth", "ours.safetensors", "stem.safetensors"}) {
    const std::string whole = to_text(file_bytes(*folder_ / name));
    for (const std::size_t size :
         {whole.size() / 2, whole.size() - 100, std::size_t{30}}) {
      put_file(*folder_ / "cut", whole.substr(0, size));
      EXPECT_THAT(refusal(*folder_ / "cut"),
                  AllOf(HasSubstr("cut"), Not(HasSubstr("nothing was thrown"))))
          << name << " " << size;
    }
  }
}

TEST_F(InceptionFiles, WrongPicturesAreRefused) {
  const auto detector = open_inception(write_stem("stem.safetensors", *stem_));
  const std::string layer = "64", unknown = "65";
  const auto refusal = [&](const at::Tensor& samples, const std::string& name) {
    return error_of([&] { detector->features(samples, {&name, 1}); });
  };
  EXPECT_THAT(refusal(at::zeros({2, 2}), layer), HasSubstr("points"));
  EXPECT_THAT(refusal(at::zeros({1, 3, 8, 8}), layer), HasSubstr("bytes"));
  EXPECT_THAT(refusal(pattern(1, 4, 8), layer), HasSubstr("4 channels"));
  EXPECT_THAT(refusal(pattern(1, 3, 8), unknown), HasSubstr("'65'"));
}

// Sets variables for a test and takes them back.
class Environment {
 public:
  void set(const char* name, const std::string& value) {
    const char* old = std::getenv(name);
    before_.emplace(name, old ? std::optional<std::string>(old) : std::nullopt);
    ::setenv(name, value.c_str(), 1);
  }
  ~Environment() {
    for (const auto& [name, value] : before_)
      value ? ::setenv(name.c_str(), value->c_str(), 1) : ::unsetenv(name.c_str());
  }

 private:
  std::map<std::string, std::optional<std::string>> before_;
};

TEST_F(InceptionFiles, WhereTheWeightsAreFound) {
  Environment environment;
  const ScratchFolder home;
  for (const char* name : {"HOME", "TORCH_HOME", "XDG_CACHE_HOME", "TMPDIR"})
    environment.set(name, home.path().string());
  environment.set("DNNLIB_CACHE_DIR", (home / "dnnlib").string());
  environment.set("FLOWMAP_DETECTOR", "");
  EXPECT_THAT(error_of([] { open_inception({}); }),
              AllOf(HasSubstr("FLOWMAP_DETECTOR (not set)"),
                    HasSubstr(home.path().string() +
                              "/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth"),
                    HasSubstr("weights-inception-2015-12-05-6726825d.pth"),
                    HasSubstr("inception-2015-12-05.pt"), HasSubstr("dnnlib"),
                    HasSubstr("6726825d")));

  const fs::path stem = write_stem("stem.safetensors", *stem_);
  fs::create_directories(home / "dnnlib/downloads");
  fs::copy_file(stem, home / "dnnlib/downloads/0123_inception-v3-2015-12-05.pkl");
  EXPECT_EQ(open_inception({})->checksum(), sha256_file(stem));

  Tensors other = *stem_;
  other["conv.bias"] = other["conv.bias"] + 1;
  const fs::path second = write_stem("second.safetensors", other);
  environment.set("FLOWMAP_DETECTOR", second.string());
  EXPECT_EQ(open_inception({})->checksum(), sha256_file(second));
  EXPECT_EQ(open_inception(stem)->checksum(), sha256_file(stem)) << "the option wins";
  EXPECT_THAT(error_of([] { open_inception("/nonexistent/x.pt"); }),
              HasSubstr("/nonexistent/x.pt"));
  // One variable for all detectors: the other's file is no error of this one.
  try {
    EXPECT_NE(make_detector("fmnist64", Config())->checksum(), sha256_file(second));
  } catch (const UsageError& error) {  // no classifier in models/
    EXPECT_THAT(error.what(), HasSubstr("it is the 2015 Inception"));
  }
}

// A snapshot of a classifier under FLOWMAP_DETECTOR is passed over; given, it is refused.
TEST_F(InceptionFiles, SnapshotsAreTheOtherDetectors) {
  const fs::path snapshot = *folder_ / "snapshot.safetensors";
  save_tensors(snapshot, *stem_, {{"flowmap", "1"}});
  EXPECT_THAT(error_of([&] { open_inception(snapshot); }), HasSubstr("fmnist64"));
  Environment environment;
  environment.set("FLOWMAP_DETECTOR", snapshot.string());
  for (const char* name : {"HOME", "TORCH_HOME", "TMPDIR", "DNNLIB_CACHE_DIR"})
    environment.set(name, "/nonexistent");
  EXPECT_THAT(error_of([] { open_inception({}); }),
              AllOf(HasSubstr(snapshot.string()), HasSubstr("fmnist64")));
}

}  // namespace
}  // namespace flowmap::metrics
