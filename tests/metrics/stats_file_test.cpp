#include "metrics/stats_file.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/formats/npy.h"
#include "flowmap/tensor_io.h"
#include "metrics/stats_file_names.h"

namespace flowmap::metrics {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class StatsFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("flowmap_stats_file_test_" + std::to_string(getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

FeatureSet small_set() {
  FeatureSet set;
  set.add(at::tensor({1.0, 2.0, 4.0, 1.0, 0.0, 3.0, 2.0, 2.0}).view({4, 2}));
  return set;
}

const FeatureSource kSource = {"fmnist64", "ab12", "native", "28x28"};
const FeatureLayer kLayer = {"features", 2};

std::vector<LayerStatistics> small_layers() { return {{"features", "", small_set()}}; }

template <class Call>
std::string usage_error_of(Call call) {
  try {
    call();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

template <class Call>
std::string data_error_of(Call call) {
  try {
    call();
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

// The warnings of a comparison.
std::vector<std::string> compare(const Statistics& statistics, const FeatureSource& ours,
                                 const FeatureLayer& layer, int64_t generated,
                                 bool force) {
  std::vector<std::string> warnings;
  comparable_layer(statistics, "a.npz", ours, layer, generated, force, warnings);
  return warnings;
}

TEST_F(StatsFile, RoundTrip) {
  const fs::path path = folder_ / "a.npz";
  write_statistics(path, small_layers(), kSource);
  EXPECT_TRUE(is_statistics_file(path));
  const Statistics back = read_statistics(path);
  EXPECT_EQ(back.writer, "flowmap");
  EXPECT_EQ(back.num_images, 4);
  ASSERT_EQ(back.layers.size(), 1u);
  EXPECT_EQ(back.layers[0].layer, "features");
  const FeatureSet& set = back.layers[0].set;
  EXPECT_EQ(set.count, 4);
  EXPECT_FALSE(set.features.defined());
  EXPECT_TRUE(at::allclose(set.mean, small_set().mean, 0, 0));
  EXPECT_TRUE(at::allclose(set.covariance(), small_set().covariance(), 1e-15, 0));
  EXPECT_EQ(back.source.detector, "fmnist64");
  EXPECT_EQ(back.source.checksum, "ab12");
  EXPECT_EQ(back.source.mode, "native");
  EXPECT_EQ(back.source.resolution, "28x28");
  write_statistics(folder_ / "b.npz", small_layers(), kSource);
  EXPECT_EQ(read_file(path), read_file(folder_ / "b.npz"));
}

TEST_F(StatsFile, SeveralLayersAndFeatures) {
  const fs::path path = folder_ / "several.npz";
  FeatureSet wide;
  wide.keep_features = true;
  wide.add(at::arange(12, at::kFloat).square().view({4, 3}));
  write_statistics(path, {{"2048", "", small_set()}, {"768", "", wide}}, kSource);
  // Names that other programs read.
  const auto arrays = read_npz(path);
  for (const char* name : {"mu", "sigma", "mu_768", "sigma_768", "features_768"})
    EXPECT_TRUE(arrays.contains(name)) << name;
  EXPECT_FALSE(arrays.contains("features"));
  const Statistics back = read_statistics(path);
  ASSERT_EQ(back.layers.size(), 2u);
  EXPECT_EQ(back.layers[0].layer, "2048");
  EXPECT_EQ(back.layers[1].layer, "768");
  EXPECT_TRUE(at::equal(back.layers[1].set.features, wide.features));
  std::vector<std::string> warnings;
  const FeatureLayer second = {"768", 3};
  EXPECT_EQ(&comparable_layer(back, "s.npz", kSource, second, 4, false, warnings),
            &back.layers[1]);
  EXPECT_THAT(warnings, ::testing::IsEmpty());
  // Of the same width, but another layer.
  EXPECT_THAT(usage_error_of([&] { compare(back, kSource, {"192", 3}, 4, false); }),
              HasSubstr("layer of a.npz is"));

  write_features(folder_ / "features.npz", {{"768", "", wide}}, kSource);
  const Statistics features = read_statistics(folder_ / "features.npz");
  EXPECT_TRUE(at::equal(features.layers[0].set.features, wide.features));
  EXPECT_TRUE(at::allclose(features.layers[0].set.covariance(), wide.covariance(), 1e-12));
  EXPECT_EQ(features.num_images, 4);
}

TEST_F(StatsFile, OtherDetectorOrResolutionIsRefused) {
  const fs::path path = folder_ / "a.npz";
  write_statistics(path, small_layers(), kSource);
  const Statistics statistics = read_statistics(path);
  EXPECT_TRUE(compare(statistics, kSource, kLayer, 4, false).empty());
  for (const FeatureSource& other :
       {FeatureSource{"points", "ab12", "native", "28x28"},
        FeatureSource{"fmnist64", "ab13", "native", "28x28"},
        FeatureSource{"fmnist64", "ab12", "clean", "28x28"},
        FeatureSource{"fmnist64", "ab12", "native", "32x32"}}) {
    EXPECT_THAT(usage_error_of([&] { compare(statistics, other, kLayer, 4, false); }),
                HasSubstr("--force"));
    EXPECT_EQ(compare(statistics, other, kLayer, 4, true).size(), 1u);
  }
  // Fewer images than are compared with it.
  EXPECT_THAT(usage_error_of([&] { compare(statistics, kSource, kLayer, 5, false); }),
              HasSubstr("num_images of a.npz is 4, of these samples 5"));
  EXPECT_EQ(compare(statistics, kSource, kLayer, 5, true).size(), 1u);
  // Pictures of many sizes have no one resolution to differ in.
  EXPECT_EQ(compare(statistics, {"fmnist64", "ab12", "native", "mixed"}, kLayer, 4, false)
                .size(), 1u);
  // Another dimension is beyond force.
  EXPECT_THAT(usage_error_of([&] {
                compare(statistics, kSource, {"features", 64}, 4, true);
              }),
              HasSubstr("statistics of 2 (layer features) dimensions, but layer features "
                        "of detector fmnist64 gives 64"));
}

TEST_F(StatsFile, ForeignFilesWarnOnce) {
  const fs::path path = folder_ / "foreign.npz";
  write_npz(path, {{"mu", to_host(small_set().mean)},
                   {"sigma", to_host(small_set().covariance())}});
  const Statistics statistics = read_statistics(path);
  EXPECT_FALSE(statistics.num_images.has_value());
  EXPECT_TRUE(at::allclose(statistics.layers[0].set.covariance(), small_set().covariance(),
                           0, 0));
  const auto warnings = compare(statistics, kSource, kLayer, 4, false);
  ASSERT_EQ(warnings.size(), 1u);
  for (const char* fact : {"detector (taken as fmnist64)", "detector_sha256",
                           "mode (taken as native)", "resolution (taken as 28x28)",
                           "num_images"})
    EXPECT_THAT(warnings[0], HasSubstr(fact));
}

TEST_F(StatsFile, BadContentIsRefused) {
  const fs::path path = folder_ / "bad.npz";
  const at::Tensor mu = at::zeros({2}, at::kDouble);
  at::Tensor skewed = at::eye(2, at::kDouble);
  skewed[0][1] = 0.5;
  const at::Tensor nan = at::full({2, 2}, std::nan(""), at::kDouble);
  for (const at::Tensor& sigma : {skewed, nan, at::eye(3, at::kDouble)}) {
    write_npz(path, {{"mu", to_host(mu)}, {"sigma", to_host(sigma)}});
    EXPECT_THROW(read_statistics(path), DataError);
  }
  write_npz(path, {{"mu", to_host(mu)}});
  EXPECT_THROW(read_statistics(path), DataError);
  for (const at::Tensor& features :
       {at::zeros({1, 3}), at::zeros({4}), at::full({4, 2}, INFINITY)}) {
    write_npz(path, {{"features", to_host(features)}});
    EXPECT_THROW(read_statistics(path), DataError);
  }
  write_npz(path, {{"features", to_host(at::rand({4, 2}))},
                   {"num_images", to_host(at::scalar_tensor(5, at::kLong))}});
  EXPECT_THAT(data_error_of([&] { read_statistics(path); }),
              HasSubstr("features of 5 images (num_images), got 4 rows"));
  // Pickles of something else; nothing in them runs.
  write_file_atomic(folder_ / "list.pkl", std::string_view("]."));
  EXPECT_THAT(data_error_of([&] { read_statistics(folder_ / "list.pkl"); }),
              HasSubstr("EDM2's statistics"));
  write_file_atomic(folder_ / "system.pkl", std::string_view("cos\nsystem\n(S'id'\ntR."));
  EXPECT_THAT(data_error_of([&] { read_statistics(folder_ / "system.pkl"); }),
              HasSubstr("os.system"));
  write_file_atomic(folder_ / "empty.pkl", std::string_view("}."));
  EXPECT_THAT(data_error_of([&] { read_statistics(folder_ / "empty.pkl"); }),
              HasSubstr("no entries"));
}

TEST(StatsFileNames, CleanFidsNamesAreRead) {
  const auto read = [](const char* name) {
    FeatureSource source;
    const bool is = read_clean_fid_name(name, source);
    return std::vector<std::string>{is ? "yes" : "no", source.detector, source.mode,
                                    source.resolution};
  };
  using Facts = std::vector<std::string>;
  EXPECT_EQ(read("dir/cifar10_clean_train_32.npz"),
            (Facts{"yes", "inception", "clean", "32x32"}));
  EXPECT_EQ(read("cifar10_legacy_tensorflow_train_32.npz"),
            (Facts{"yes", "inception", "legacy_tensorflow", "32x32"}));
  EXPECT_EQ(read("my_set_legacy_pytorch_custom_na.npz"),
            (Facts{"yes", "inception", "legacy_pytorch", ""}));
  EXPECT_EQ(read("example_clean_custom_na_kid.npz"),
            (Facts{"yes", "inception", "clean", ""}));
  EXPECT_EQ(read("ffhq_clean_clip_vit_b_32_trainval_1024.npz"),
            (Facts{"yes", "clip_vit_b_32", "clean", "1024x1024"}));
  EXPECT_EQ(read("cifar10-32x32.npz")[0], "no");
  EXPECT_EQ(read("a_clean_room.npz")[0], "no");
  EXPECT_EQ(read("_clean_train_32.npz")[0], "no");
}

}  // namespace
}  // namespace flowmap::metrics
