// Averages of weights: the decays of EDM, EDM2 and the constant rule.
#include "flowmap/train/ema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "tests/support/training_reference.h"

namespace flowmap {
namespace {

using testing::difference;
using testing::MethodReference;
using ::testing::HasSubstr;
using Rule = EmaProfile::Rule;

// The average of the stored path of a weight vector, after each update. `counted`: images
// of this step that the profile is told of as seen (EDM2 counts before its update).
at::Tensor averages_along(const at::Tensor& path, const EmaProfile& profile, int64_t batch,
                          int64_t counted = 0) {
  Ema ema(profile, {{"w", path[0]}});
  std::vector<at::Tensor> rows;
  for (int64_t k = 0; k + 1 < path.size(0); ++k) {
    ema.update({{"w", path[k + 1]}}, k * batch + counted, batch, k);
    rows.push_back(ema.averages()[0].tensor.clone());
  }
  return at::stack(rows);
}

TEST(EmaReference, HalfLifeWithRampIsEdms) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  const auto names = reference.names("ema_edm_");
  ASSERT_EQ(names.size(), 4u);
  for (const std::string& name : names) {
    const Config config = reference.config(name);
    const EmaProfile profile{.rule = Rule::halflife,
                             .halflife = config.number("halflife_Mimg") * 1e6,
                             .rampup = config.number("rampup_ratio", 0.0)};
    const int64_t batch = config.integer("batch");
    std::vector<double> betas;
    for (int64_t k = 0; k < 60; ++k) betas.push_back(profile.beta(k * batch, batch, k));
    EXPECT_LT(difference(at::tensor(betas, at::kDouble), reference.at(name + "/beta")),
              1e-12)
        << name;
    EXPECT_LT(difference(averages_along(reference.at("path"), profile, batch),
                         reference.at(name + "/ema")),
              1e-12)
        << name;
  }
}

TEST(EmaReference, HalfLifeCountedAfterTheStepIsEdm2s) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  const auto names = reference.names("ema_edm2_");
  ASSERT_EQ(names.size(), 4u);
  for (const std::string& name : names) {
    const Config config = reference.config(name);
    const EmaProfile profile{.rule = Rule::halflife,
                             .halflife = config.number("halflife_Mimg") * 1e6,
                             .rampup = config.number("rampup_ratio", 0.0)};
    const int64_t batch = config.integer("batch");
    EXPECT_LT(difference(averages_along(reference.at("path"), profile, batch, batch),
                         reference.at(name + "/ema")),
              1e-12)
        << name;
  }
}

// Iteration i is after i batches for the half-life, and the i-th update for the power.
TEST(EmaReference, FastGensDecays) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  const Config config = reference.config("fastgen_betas");
  const int64_t batch = config.integer("batch");
  const double g = config.number("gamma");
  const EmaProfile halflife{.rule = Rule::halflife,
                            .halflife = config.number("halflife_kimg") * 1000,
                            .rampup = config.number("rampup_ratio")};
  const EmaProfile power{.rule = Rule::power,
                         .std = std::sqrt((g + 1) / ((g + 2) * (g + 2) * (g + 3)))};
  const at::Tensor iterations = reference.at("fastgen_betas/iteration");
  ASSERT_GT(iterations.size(0), 10);
  for (int64_t k = 0; k < iterations.size(0); ++k) {
    const auto i = iterations[k].item<int64_t>();
    EXPECT_NEAR(halflife.beta(i * batch, batch, i),
                reference.at("fastgen_betas/halflife")[k].item<double>(), 1e-12) << i;
    EXPECT_NEAR(power.beta((i - 1) * batch, batch, i - 1),
                reference.at("fastgen_betas/power")[k].item<double>(), 1e-12) << i;
  }
}

TEST(EmaReference, ConstantDecayWithWarmup) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  const auto names = reference.names("ema_warmup_");
  ASSERT_EQ(names.size(), 3u);
  for (const std::string& name : names) {
    const EmaProfile profile{.rule = Rule::constant,
                             .decay = reference.config(name).number("decay")};
    EXPECT_LT(difference(averages_along(reference.at("path"), profile, 128),
                         reference.at(name + "/ema")),
              1e-12)
        << name;
  }
}

TEST(EmaReference, PowerFunctionIsEdm2s) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  const at::Tensor std = reference.at("phema_std_exp/std");
  for (int64_t i = 0; i < std.size(0); ++i) {
    const double s = std[i].item<double>();
    const double expected = reference.at("phema_std_exp/exp")[i].item<double>();
    EXPECT_NEAR(power_exponent(s), expected, 1e-12 * expected) << s;
    const EmaProfile profile{.rule = Rule::power, .std = s};
    const struct { const char* name; int64_t k; } rows[] = {
        {"beta_first", 1}, {"beta_k10", 10}, {"beta_k1000", 1000}};
    for (const auto& row : rows) {
      const double beta =
          reference.at(std::string("phema_std_exp/") + row.name)[i].item<double>();
      EXPECT_NEAR(profile.beta((row.k - 1) * 128, 128, row.k - 1), beta, 1e-12) << row.name;
    }
  }
}

TEST(EmaReference, PowerExponentInTheNetworksFile) {
  const auto file = testing::reference_folder() / "networks" / "edm2_ema.json";
  FM_NEED_FILE(file);
  const Config root = Config::from_file(file);
  // Pairs [std, exponent], read as text: lists of lists are no configuration.
  std::string text = root.raw("std_to_exp");
  int pairs = 0;
  for (std::size_t at = text.find('[', 1); at != std::string::npos;
       at = text.find('[', at + 1), ++pairs) {
    std::size_t used = 0;
    const double std = std::stod(text.substr(at + 1), &used);
    const double exponent = std::stod(text.substr(text.find(',', at) + 1));
    EXPECT_NEAR(power_exponent(std), exponent, 1e-11 * exponent) << std;
  }
  EXPECT_EQ(pairs, 8);
}

// Without references: the root of Karras et al. 2024, eq. 126, and two known exponents.
TEST(Ema, PowerExponentIsTheRoot) {
  for (const double std : {0.001, 0.01, 0.05, 0.1, 0.2, 0.288}) {
    const double g = power_exponent(std);
    EXPECT_NEAR(std::sqrt((g + 1) / ((g + 2) * (g + 2) * (g + 3))), std, 1e-12);
  }
  EXPECT_NEAR(power_exponent(0.05), 16.97, 0.005);
  EXPECT_NEAR(power_exponent(0.1), 6.94, 0.005);
  EXPECT_THROW(power_exponent(0), Error);
  EXPECT_THROW(power_exponent(0.2887), Error);
}

TEST(Ema, DecaysByHand) {
  // Half of the weight is left after a half-life of images.
  const EmaProfile plain{.rule = Rule::halflife, .halflife = 1000, .rampup = 0};
  EXPECT_DOUBLE_EQ(std::pow(plain.beta(0, 100, 0), 10), 0.5);
  // The ramp: at 2000 images seen, 5 % of them.
  const EmaProfile ramped{.rule = Rule::halflife, .halflife = 1000, .rampup = 0.05};
  EXPECT_DOUBLE_EQ(ramped.beta(2000, 100, 20), 0.5);
  EXPECT_EQ(ramped.beta(0, 100, 0), 0);
  const EmaProfile constant{.rule = Rule::constant, .decay = 0.9, .warmup = false};
  EXPECT_EQ(constant.beta(0, 64, 0), 0.9);
  const EmaProfile warm{.rule = Rule::constant, .decay = 0.9};
  EXPECT_DOUBLE_EQ(warm.beta(0, 64, 0), 2.0 / 11);
  EXPECT_EQ(warm.beta(0, 64, 1000), 0.9);
  // The first update of a power average takes the weights whole.
  const EmaProfile power{.rule = Rule::power, .std = 0.1};
  EXPECT_EQ(power.beta(0, 64, 0), 0);
}

TEST(Ema, DoesNotAliasTheWeights) {
  const at::Tensor w = at::ones({2});
  Ema ema({.rule = Rule::constant, .decay = 0.75, .warmup = false}, {{"w", w}});
  w.fill_(5);
  EXPECT_EQ(ema.averages()[0].tensor[0].item<float>(), 1);
  ema.update({{"w", w}}, 0, 1, 0);
  EXPECT_EQ(ema.averages()[0].tensor[0].item<float>(), 2);
  EXPECT_EQ(w[0].item<float>(), 5);

  Ema other({.rule = Rule::constant, .decay = 0.75, .warmup = false}, {{"w", w}});
  other.load_state(ema.state());
  EXPECT_EQ(other.averages()[0].tensor[0].item<float>(), 2);
  EXPECT_THROW(other.load_state({}), Error);
  EXPECT_THROW(other.load_state({{"w", at::ones({3})}}), Error);
}

std::vector<EmaProfile> read_profiles(const char* text) {
  return read_ema_profiles(Config::from_text(text, "test"));
}

TEST(EmaProfiles, AreReadWithTheirNames) {
  ASSERT_EQ(read_profiles("{}").size(), 1u);
  EXPECT_EQ(read_profiles("{}")[0].text(), "halflife=500000,rampup=0.05");
  const auto profiles = read_profiles(R"({"ema": [
    {"type": "halflife", "images": 40000, "rampup": 0.1}, {"images": 1500},
    {"type": "power", "std": 0.05}, {"type": "constant", "decay": 0.999},
    {"type": "constant", "decay": 0.9999, "warmup": false}]})");
  ASSERT_EQ(profiles.size(), 5u);
  EXPECT_EQ(profiles[0].text(), "halflife=40000,rampup=0.1");
  EXPECT_EQ(profiles[0].tag(), "h40k");
  EXPECT_EQ(profiles[1].tag(), "h1500");
  EXPECT_EQ(profiles[2].text(), "power=0.050");
  EXPECT_EQ(profiles[2].tag(), "0.050");
  EXPECT_EQ(profiles[3].text(), "constant=0.999,warmup");
  EXPECT_EQ(profiles[4].text(), "constant=0.9999");
  EXPECT_EQ(profiles[4].tag(), "0.9999");
}

// Two snapshots of one name would leave one file.
TEST(EmaProfiles, OfOneFileNameAreRefused) {
  const auto refusal = [](const char* text) -> std::string {
    try {
      read_profiles(text);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refusal(R"({"ema": [{"images": 1000}, {"images": 1000, "rampup": 0.1}]})"),
              HasSubstr("'h1k'"));
  EXPECT_EQ(refusal(R"({"ema": [{"images": 1000}, {"images": 1100}]})"), "accepted");
  EXPECT_THAT(refusal(R"({"ema": [{"type": "power", "std": 0.3}]})"), HasSubstr("std"));
  EXPECT_THAT(refusal(R"({"ema": [{"type": "none"}]})"), HasSubstr("none"));
}

}  // namespace
}  // namespace flowmap
