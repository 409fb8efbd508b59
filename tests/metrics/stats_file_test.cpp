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
#include "metrics/frechet.h"
#include "tests/support/reference.h"

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

template <class Call>
std::string usage_error_of(Call call) {
  try {
    call();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(StatsFile, RoundTrip) {
  const fs::path path = folder_ / "a.npz";
  write_statistics(path, small_set(), kSource);
  EXPECT_TRUE(is_statistics_file(path));
  const Statistics back = read_statistics(path);
  EXPECT_EQ(back.num_images, 4);
  EXPECT_EQ(back.set.count, 4);
  EXPECT_TRUE(at::allclose(back.set.mean, small_set().mean, 0, 0));
  EXPECT_TRUE(at::allclose(back.set.covariance(), small_set().covariance(), 1e-15, 0));
  EXPECT_EQ(back.source.detector, "fmnist64");
  EXPECT_EQ(back.source.checksum, "ab12");
  EXPECT_EQ(back.source.mode, "native");
  EXPECT_EQ(back.source.resolution, "28x28");
  write_statistics(folder_ / "b.npz", small_set(), kSource);
  EXPECT_EQ(read_file(path), read_file(folder_ / "b.npz"));
}

TEST_F(StatsFile, OtherDetectorOrResolutionIsRefused) {
  const fs::path path = folder_ / "a.npz";
  write_statistics(path, small_set(), kSource);
  const Statistics statistics = read_statistics(path);
  EXPECT_TRUE(check_comparable(statistics, "a.npz", kSource, 2, false).empty());
  for (const FeatureSource& other :
       {FeatureSource{"points", "ab12", "native", "28x28"},
        FeatureSource{"fmnist64", "ab13", "native", "28x28"},
        FeatureSource{"fmnist64", "ab12", "clean", "28x28"},
        FeatureSource{"fmnist64", "ab12", "native", "32x32"}}) {
    EXPECT_THAT(usage_error_of([&] {
                  check_comparable(statistics, "a.npz", other, 2, false);
                }),
                HasSubstr("--force"));
    EXPECT_EQ(check_comparable(statistics, "a.npz", other, 2, true).size(), 1u);
  }
  // Another dimension is beyond force.
  EXPECT_THAT(usage_error_of([&] {
                check_comparable(statistics, "a.npz", kSource, 64, true);
              }),
              HasSubstr("2 dimensions"));
}

TEST_F(StatsFile, ForeignFilesWarn) {
  const fs::path path = folder_ / "foreign.npz";
  write_npz(path, {{"mu", to_host(small_set().mean)},
                   {"sigma", to_host(small_set().covariance())}});
  const Statistics statistics = read_statistics(path);
  EXPECT_FALSE(statistics.num_images.has_value());
  EXPECT_TRUE(at::allclose(statistics.set.covariance(), small_set().covariance(), 0, 0));
  EXPECT_EQ(check_comparable(statistics, "foreign.npz", kSource, 2, false).size(), 4u);
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
  EXPECT_THROW(read_statistics("stats.pkl"), UsageError);
}

fs::path foreign(const char* name) {
  return testing::reference_folder() / "metrics" / "stats_files" / name;
}

// Distances between the files of three tools, as computed by theirs.
TEST(StatsFileReference, ToolsFilesAreRead) {
  FM_NEED_FILE(foreign("edm.npz"));
  const auto edm = read_statistics(foreign("edm.npz"));
  const auto pytorch_fid = read_statistics(foreign("pytorch_fid_dims64.npz"));
  const auto clean =
      read_statistics(foreign("cleanfid_example_clean_custom_na.npz"));
  EXPECT_NEAR(edm.set.mean[0].item<double>(), 1.5263787786165872, 1e-15);
  EXPECT_NEAR(edm.set.covariance().trace().item<double>(), 3.533067944373353, 1e-12);
  EXPECT_NEAR(frechet_distance(edm.set, pytorch_fid.set), 0.001961837711632164, 1e-8);
  EXPECT_NEAR(frechet_distance(clean.set, pytorch_fid.set), 0.04542591836144805, 1e-8);
  EXPECT_NEAR(frechet_distance(clean.set, edm.set), 0.045601048881416695, 1e-8);
  const auto adm = read_statistics(foreign("adm_reference.npz"));
  EXPECT_EQ(adm.set.mean.size(0), 64);
}

TEST(StatsFileReference, OddFilesAreRead) {
  FM_NEED_FILE(foreign("edm.npz"));
  const auto plain = read_statistics(foreign("pytorch_fid_dims64.npz"));
  for (const char* name : {"odd_big_endian.npz", "odd_fortran_float32_extra_keys.npz",
                           "odd_npy_version_2.npz"}) {
    const auto odd = read_statistics(foreign(name));
    EXPECT_EQ(odd.set.mean.size(0), 64) << name;
    EXPECT_LT((odd.set.covariance() - plain.set.covariance()).abs().max().item<double>(),
              1e-6)
        << name;
  }
}

TEST(StatsFileReference, BadFilesAreRefused) {
  FM_NEED_FILE(foreign("edm.npz"));
  for (const char* name :
       {"bad_missing_sigma.npz", "bad_nan.npz", "bad_shape.npz", "bad_truncated.npz",
        "cleanfid_example_clean_custom_na_kid.npz", "adm_samples.npz"})
    EXPECT_THROW(read_statistics(foreign(name)), DataError) << name;
  EXPECT_FALSE(is_statistics_file(foreign("adm_samples.npz")));
}

}  // namespace
}  // namespace flowmap::metrics
