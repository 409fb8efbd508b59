#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/base/sha256.h"
#include "flowmap/data/dataset.h"
#include "flowmap/train/snapshot.h"
#include "metrics/metric.h"
#include "tests/support/reference.h"

namespace flowmap::metrics {
namespace {

// Of the detector's first layer.
at::Tensor features_of(Detector& detector, const at::Tensor& samples) {
  const std::string layer = detector.layers().front().name;
  return detector.features(samples, {&layer, 1}).front();
}

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr const char* kSpec = R"({
  "network": {"type": "classifier_cnn", "channels": [8, 8, 8, 8], "squeeze": 4},
  "preconditioning": {"type": "classifier"},
  "sample_shape": [1, 28, 28], "label_dim": 10})";

template <class Call>
std::string usage_error_of(Call call) {
  try {
    call();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

// A detector with untrained weights.
class DetectorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::temp_directory_path() /
            ("flowmap_detector_test_" + std::to_string(getpid()) + ".safetensors");
    spec_ = Config::from_text(kSpec, "test");
    model_ = make_model(spec_, 7);
    save_snapshot(path_, *model_, spec_.resolved_json(), {});
  }
  void TearDown() override { fs::remove(path_); }
  std::shared_ptr<Detector> open(const fs::path& path) const {
    Config options;
    options.set_json("path", "\"" + path.string() + "\"", "test");
    return make_detector("fmnist64", options);
  }
  static at::Tensor pictures(int64_t count) {
    return (at::arange(count * 784) * 37 % 256).to(at::kByte).view({count, 1, 28, 28});
  }

  fs::path path_;
  Config spec_;
  std::shared_ptr<Model> model_;
};

TEST_F(DetectorTest, FeaturesAreThePenultimateLayer) {
  const auto detector = open(path_);
  EXPECT_EQ(detector->name(), "fmnist64");
  EXPECT_EQ(detector->layers().front().dimensions, 64);
  EXPECT_EQ(detector->checksum(), sha256_file(path_));

  const at::Tensor images = pictures(5);
  const at::Tensor features = features_of(*detector, images);
  ASSERT_EQ(features.sizes(), (at::IntArrayRef{5, 64}));
  EXPECT_EQ(features.scalar_type(), at::kFloat);
  EXPECT_FALSE(features.requires_grad());

  // logits = features W^T + b, of the model that was saved.
  model_->eval();
  const at::NoGradGuard no_grad;
  Context context;
  const Dual none;
  const at::Tensor logits =
      model_->raw(samples_to_float(images), none, none, Condition{}, context).value;
  const auto parameters = model_->named_parameters();
  const at::Tensor again =
      features.mm(parameters["model.logits.weight"].t()) +
      parameters["model.logits.bias"];
  EXPECT_TRUE(at::allclose(again, logits, 1e-5, 1e-6));
  EXPECT_GT(features.std(0).max().item<float>(), 0);
}

TEST_F(DetectorTest, RowsDoNotDependOnTheBatch) {
  const auto detector = open(path_);
  const at::Tensor images = pictures(6);
  const at::Tensor all = features_of(*detector, images);
  for (int64_t i = 0; i < 6; ++i)
    EXPECT_TRUE(at::allclose(features_of(*detector, images.narrow(0, i, 1))[0], all[i], 1e-5,
                             1e-6));
}

TEST_F(DetectorTest, GrayStoredAsRgbIsGrayAndColourIsRefused) {
  const auto detector = open(path_);
  const at::Tensor images = pictures(3);
  const at::Tensor rgb = images.repeat({1, 3, 1, 1});
  EXPECT_TRUE(at::equal(features_of(*detector, rgb), features_of(*detector, images)));
  at::Tensor coloured = rgb.clone();
  coloured[1][2][5][5] = 255 - coloured[1][2][5][5];
  EXPECT_THAT(usage_error_of([&] { features_of(*detector, coloured); }),
              HasSubstr("coloured"));
}

TEST_F(DetectorTest, Refusals) {
  const auto detector = open(path_);
  EXPECT_THAT(usage_error_of([&] {
                features_of(*detector, at::zeros({2, 1, 32, 32}, at::kByte));
              }),
              HasSubstr("[1, 32, 32]"));
  EXPECT_THROW(features_of(*detector, at::zeros({2, 1, 28, 28})), UsageError);
  EXPECT_THROW(features_of(*detector, at::zeros({2, 2})), UsageError);
  EXPECT_THAT(usage_error_of([&] { open("/nonexistent/weights.safetensors"); }),
              HasSubstr("/nonexistent/weights.safetensors"));
  EXPECT_THAT(usage_error_of([&] { make_detector("fmnist", Config()); }),
              HasSubstr("fmnist64"));
}

TEST_F(DetectorTest, EnvironmentNamesTheWeights) {
  setenv("FLOWMAP_DETECTOR", path_.c_str(), 1);
  EXPECT_EQ(make_detector("fmnist64", Config())->checksum(), sha256_file(path_));
  setenv("FLOWMAP_DETECTOR", "/nonexistent/x.safetensors", 1);
  EXPECT_THAT(usage_error_of([&] { make_detector("fmnist64", Config()); }),
              HasSubstr("FLOWMAP_DETECTOR"));
  unsetenv("FLOWMAP_DETECTOR");
}

TEST_F(DetectorTest, AClassifierDrawsNoImages) {
  Context context;
  const Dual x(at::zeros({1, 1, 28, 28})), t(at::zeros({1}));
  EXPECT_THROW(model_->velocity(x, t, Condition{}, context), UsageError);
  EXPECT_THROW(model_->denoise(x, t, Condition{}, context), UsageError);
}

TEST(PointsDetector, PointsAreTheirOwnFeatures) {
  const auto detector = make_detector("points", Config());
  EXPECT_EQ(detector->layers().front().dimensions, 2);
  EXPECT_EQ(detector->checksum(), "");
  const at::Tensor points = at::tensor({0.5, -1.0, 2.0, 3.0}).view({2, 2});
  EXPECT_TRUE(at::equal(features_of(*detector, points), points.to(at::kFloat)));
  EXPECT_THROW(features_of(*detector, at::zeros({2, 3})), UsageError);
  EXPECT_THROW(features_of(*detector, at::zeros({2, 1, 28, 28}, at::kByte)), UsageError);
}

// The classifier that ships: small, and as accurate as models/README.md says.
TEST(ShippedDetector, SizeAndAccuracy) {
  const fs::path path = testing::source_folder() / "models" / "fmnist64.safetensors";
  const fs::path data = "/usr/share/datasets/fashion-mnist";
  if (!fs::exists(data / "t10k-images-idx3-ubyte.gz"))
    GTEST_SKIP() << "no Fashion-MNIST (Debian package dataset-fashion-mnist)";
  ASSERT_TRUE(fs::exists(path)) << path;
  constexpr double kStatedAccuracy = 0.925;
  EXPECT_LT(fs::file_size(path), 2'000'000u);

  const Snapshot snapshot = load_snapshot(path);
  Config options;
  options.set_json("type", "\"fashion_mnist\"", "test");
  options.set_json("split", "\"test\"", "test");
  options.set_json("labels", "true", "test");
  const auto test_set = make_dataset(options);
  const int64_t count = test_set->info().count;
  ASSERT_EQ(count, 10000);
  const at::NoGradGuard no_grad;
  Context context;
  const Dual none;
  int64_t correct = 0;
  for (int64_t begin = 0; begin < count; begin += 500) {
    const at::Tensor index = at::arange(begin, begin + 500);
    const at::Tensor x = samples_to_float(test_set->samples(index));
    const at::Tensor logits =
        snapshot.model->raw(x, none, none, Condition{}, context).value;
    const at::Tensor hits =
        logits.argmax(1).eq(test_set->labels(index).argmax(1)).sum();
    correct += hits.item<int64_t>();
  }
  const double accuracy = static_cast<double>(correct) / static_cast<double>(count);
  RecordProperty("accuracy", std::to_string(accuracy));
  EXPECT_GE(accuracy, kStatedAccuracy);
}

}  // namespace
}  // namespace flowmap::metrics
