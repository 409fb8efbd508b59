// Statistics files as other programs wrote them.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "metrics/frechet.h"
#include "metrics/stats_file.h"
#include "tests/support/reference.h"

namespace flowmap::metrics {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

template <class Failure, class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Failure& error) {
    return error.what();
  }
  return "nothing was thrown";
}

fs::path foreign(const char* name) {
  return testing::reference_folder() / "metrics" / "stats_files" / name;
}

FeatureSet first_set(const char* name) {
  return read_statistics(foreign(name)).layers.at(0).set;
}

// Distances between the files of three tools, as computed by theirs.
TEST(StatsFileReference, ToolsFilesAreRead) {
  FM_NEED_FILE(foreign("edm.npz"));
  const FeatureSet edm = first_set("edm.npz");
  const FeatureSet pytorch_fid = first_set("pytorch_fid_dims64.npz");
  const auto clean_file = read_statistics(foreign("cleanfid_example_clean_custom_na.npz"));
  const FeatureSet& clean = clean_file.layers.at(0).set;
  EXPECT_EQ(clean_file.writer, "clean-fid");
  EXPECT_EQ(clean_file.source.mode, "clean");
  EXPECT_NEAR(edm.mean[0].item<double>(), 1.5263787786165872, 1e-15);
  EXPECT_NEAR(edm.covariance().trace().item<double>(), 3.533067944373353, 1e-12);
  EXPECT_NEAR(frechet_distance(edm, pytorch_fid), 0.001961837711632164, 1e-8);
  EXPECT_NEAR(frechet_distance(clean, pytorch_fid), 0.04542591836144805, 1e-8);
  EXPECT_NEAR(frechet_distance(clean, edm), 0.045601048881416695, 1e-8);
}

// guided-diffusion's own: pictures, and statistics of two layers.
TEST(StatsFileReference, GuidedDiffusionHasTwoLayers) {
  FM_NEED_FILE(foreign("adm_reference.npz"));
  const auto adm = read_statistics(foreign("adm_reference.npz"));
  EXPECT_EQ(adm.writer, "guided-diffusion");
  EXPECT_EQ(adm.source.mode, "legacy_tensorflow");
  ASSERT_EQ(adm.layers.size(), 2u);
  EXPECT_EQ(adm.layers[0].layer, "");
  EXPECT_EQ(adm.layers[0].set.mean.size(0), 64);
  EXPECT_EQ(adm.layers[1].layer, "spatial");
  EXPECT_EQ(adm.layers[1].set.mean.size(0), 16);
}

// clean-fid's features are those whose moments its other file holds.
TEST(StatsFileReference, CleanFidsFeatures) {
  FM_NEED_FILE(foreign("cleanfid_example_clean_custom_na_kid.npz"));
  const auto kid = read_statistics(foreign("cleanfid_example_clean_custom_na_kid.npz"));
  EXPECT_EQ(kid.num_images, 120);
  EXPECT_EQ(kid.source.mode, "clean");
  const FeatureSet& set = kid.layers.at(0).set;
  ASSERT_TRUE(set.features.defined());
  EXPECT_EQ(set.features.sizes(), (at::IntArrayRef{120, 64}));
  const FeatureSet moments = first_set("cleanfid_example_clean_custom_na.npz");
  EXPECT_LT((set.mean - moments.mean).abs().max().item<double>(), 1e-6);
  EXPECT_LT((set.covariance() - moments.covariance()).abs().max().item<double>(), 1e-6);
}

TEST(StatsFileReference, Edm2sPickles) {
  FM_NEED_FILE(foreign("edm2_numpy1.pkl"));
  const FeatureSet edm = first_set("edm.npz");
  for (const char* name : {"edm2_numpy1.pkl", "edm2_numpy2.pkl"}) {
    ASSERT_TRUE(is_statistics_file(foreign(name)));
    const auto read = read_statistics(foreign(name));
    EXPECT_EQ(read.writer, "EDM2");
    EXPECT_EQ(read.num_images, 120);
    ASSERT_EQ(read.layers.size(), 2u);
    EXPECT_EQ(read.layers[0].detector, "inception");
    EXPECT_EQ(read.layers[1].detector, "dinov2");
    EXPECT_EQ(read.layers[0].set.count, 120);
    EXPECT_LT((read.layers[0].set.mean - edm.mean).abs().max().item<double>(), 1e-12);
    EXPECT_LT(frechet_distance(read.layers[0].set, edm), 1e-7);
    // Each detector finds its own.
    std::vector<std::string> warnings;
    const FeatureSource dino = {"dinov2", "", "edm", ""};
    EXPECT_EQ(&comparable_layer(read, name, dino, {"cls", 64}, 10, false, warnings),
              &read.layers[1]);
    EXPECT_THAT(error_of<UsageError>([&] {
                  comparable_layer(read, "a.pkl", {"fmnist64", "ab", "edm", "28x28"},
                                   {"features", 64}, 10, false, warnings);
                }),
                HasSubstr("detector of a.pkl is 'inception', of these samples "
                          "'fmnist64'"));
  }
}

TEST(StatsFileReference, OddFilesAreRead) {
  FM_NEED_FILE(foreign("edm.npz"));
  const FeatureSet plain = first_set("pytorch_fid_dims64.npz");
  for (const char* name : {"odd_big_endian.npz", "odd_fortran_float32_extra_keys.npz",
                           "odd_npy_version_2.npz"}) {
    const FeatureSet odd = first_set(name);
    EXPECT_EQ(odd.mean.size(0), 64) << name;
    EXPECT_LT((odd.covariance() - plain.covariance()).abs().max().item<double>(), 1e-6)
        << name;
  }
}

TEST(StatsFileReference, BadFilesAreRefused) {
  FM_NEED_FILE(foreign("edm.npz"));
  const std::pair<const char*, const char*> bad[] = {
      {"bad_missing_sigma.npz", "an array 'sigma' (feature statistics), got only mu"},
      {"bad_nan.npz", "finite values in sigma"},
      {"bad_shape.npz", "sigma of shape [63, 63] to go with mu"},
      {"bad_truncated.npz", "bad_truncated.npz"},
      {"adm_samples.npz", "an array 'mu' (feature statistics), got only arr_0"}};
  for (const auto& [name, what] : bad)
    EXPECT_THAT(error_of<DataError>([&, file = name] { read_statistics(foreign(file)); }),
                HasSubstr(what))
        << name;
  EXPECT_FALSE(is_statistics_file(foreign("adm_samples.npz")));
}

}  // namespace
}  // namespace flowmap::metrics
