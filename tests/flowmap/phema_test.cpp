// Post-hoc EMA: inner products of power profiles and the coefficients, against EDM2's
// program, quadrature, and averages that were tracked.
#include "flowmap/train/phema.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/train/ema.h"
#include "tests/support/training_reference.h"

namespace flowmap {
namespace {

using testing::difference;
using testing::MethodReference;

double number_at(const at::Tensor& values, int64_t i) { return values[i].item<double>(); }

// p of phema.h.
class Density {
 public:
  explicit Density(const PowerProfile& profile)
      : images_(profile.images), exponent_(power_exponent(profile.std)) {}
  double operator()(double x) const {
    if (x > images_) return 0;
    return (exponent_ + 1) / images_ * std::pow(x / images_, exponent_);
  }

 private:
  double images_, exponent_;
};

TEST(PhemaReference, WidthsAndExponents) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  const at::Tensor exponents = reference.at("phema_std_exp/exp");
  for (int64_t i = 0; i < exponents.size(0); ++i) {
    const double g = number_at(exponents, i);
    const double back = std::sqrt((g + 1) / ((g + 2) * (g + 2) * (g + 3)));
    EXPECT_NEAR(back, number_at(reference.at("phema_std_exp/back"), i), 1e-12);
    EXPECT_NEAR(power_exponent(back), g, 1e-11 * g);
  }
}

TEST(PhemaReference, Correlations) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  const auto profile = [&](const char* which, int64_t i) {
    const std::string name = std::string("phema_correlation/") + which;
    return PowerProfile{number_at(reference.at(name + "_ofs"), i),
                        number_at(reference.at(name + "_std"), i)};
  };
  const at::Tensor expected = reference.at("phema_correlation/value");
  for (int64_t i = 0; i < expected.size(0); ++i) {
    const double want = number_at(expected, i);
    EXPECT_NEAR(profile_product(profile("a", i), profile("b", i)), want, 1e-12 * want) << i;
    EXPECT_NEAR(profile_product(profile("b", i), profile("a", i)), want, 1e-12 * want) << i;
  }
}

// The profile sampled at 0, 1, ..., 39 and normalised.
TEST(PhemaReference, Responses) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  const at::Tensor expected = reference.at("phema_response/response");
  for (int64_t k = 0; k < expected.size(1); ++k) {
    const Density density({number_at(reference.at("phema_response/ofs"), k),
                           number_at(reference.at("phema_response/std"), k)});
    std::vector<double> response;
    for (int64_t i = 0; i < expected.size(0); ++i)
      response.push_back(density(static_cast<double>(i)));
    const double total = std::accumulate(response.begin(), response.end(), 0.0);
    EXPECT_LT(difference(at::tensor(response, at::kDouble) / total, expected.select(1, k)),
              1e-12);
  }
}

TEST(PhemaReference, CoefficientsAndReconstructions) {
  FM_NEED_METHOD_REFERENCE("training");
  const MethodReference reference("training");
  const auto names = reference.names("phema_reconstruct_");
  ASSERT_EQ(names.size(), 2u);
  for (const std::string& name : names) {
    const auto at = [&](const char* part) { return reference.at(name + "/" + part); };
    std::vector<PowerProfile> saved;
    for (int64_t i = 0; i < at("in_nimg").size(0); ++i)
      saved.push_back({number_at(at("in_nimg"), i), number_at(at("in_std"), i)});
    const double moment = reference.config(name).number("out_nimg");
    for (int64_t k = 0; k < at("out_std").size(0); ++k) {
      const PosthocSolution solution =
          solve_posthoc(saved, {moment, number_at(at("out_std"), k)});
      const at::Tensor ours = at::tensor(solution.coefficients, at::kDouble);
      EXPECT_LT(difference(ours, at("coefficients").select(1, k)), 1e-7) << name << k;
      EXPECT_LT(difference(ours.matmul(at("snapshots")), at("reconstructed")[k]), 1e-7);
      EXPECT_NEAR(ours.sum().item<double>(), 1, 1e-12);
    }
  }
}

TEST(Phema, ProductIsTheIntegral) {
  const PowerProfile a{3000, 0.1}, b{2000, 0.07}, c{3000, 0.25};
  for (const auto& [one, two] : {std::pair{a, b}, {b, c}, {a, c}, {c, c}}) {
    const Density p(one), q(two);
    double sum = 0;
    constexpr int kCells = 600'000;
    const double step = 3000.0 / kCells;
    for (int i = 0; i < kCells; ++i)
      sum += p((i + 0.5) * step) * q((i + 0.5) * step) * step;
    EXPECT_NEAR(profile_product(one, two), sum, 1e-8 * sum);
  }
}

// Exponents of thousands and far moments: no overflow, and nothing where nothing overlaps.
TEST(Phema, NarrowProfilesAreFinite) {
  const PowerProfile narrow{2e9, 0.001};
  EXPECT_NEAR(profile_product(narrow, narrow), 500.0 / 2e9, 2e-3 * 500 / 2e9);
  EXPECT_EQ(profile_product(narrow, {1e6, 0.001}), 0);
}

TEST(Phema, SavedProfilesAreReturnedAsTheyAre) {
  const std::vector<PowerProfile> saved = {
      {1000, 0.05}, {1000, 0.1}, {2000, 0.05}, {2000, 0.1}};
  for (std::size_t i = 0; i < saved.size(); ++i) {
    const PosthocSolution solution = solve_posthoc(saved, saved[i]);
    EXPECT_LT(solution.residual, 1e-8);
    for (std::size_t k = 0; k < saved.size(); ++k)
      EXPECT_NEAR(solution.coefficients[k], k == i ? 1 : 0, 1e-12);
  }
}

// Many moments close together, as long runs have them, and one profile twice.
TEST(Phema, ManyAndRepeatedSnapshotsAreSolved) {
  std::vector<PowerProfile> saved;
  for (int k = 1; k <= 200; ++k)
    for (const double std : {0.05, 0.1}) saved.push_back({1e6 * k, std});
  saved.push_back(saved.back());
  for (const double std : {0.02, 0.075, 0.15, 0.2}) {
    const PosthocSolution solution = solve_posthoc(saved, {2e8, std});
    double sum = 0, size = 0;
    for (const double c : solution.coefficients) sum += c, size += std::abs(c);
    EXPECT_NEAR(sum, 1, 1e-9);
    EXPECT_LT(size, 100) << std;  // rounding of the weights is not blown up
    EXPECT_LT(solution.residual, 3e-3) << std;
  }
}

// The residual is the distance of the combined profile to the wanted one.
TEST(Phema, ResidualIsTheDistance) {
  const std::vector<PowerProfile> saved = {{700, 0.05}, {1000, 0.1}};
  const PowerProfile wanted{1000, 0.07};
  const PosthocSolution solution = solve_posthoc(saved, wanted);
  const Density target(wanted), first(saved[0]), second(saved[1]);
  double squares = 0, whole = 0;
  for (int i = 0; i < 100'000; ++i) {
    const double x = (i + 0.5) / 100;
    const double off = solution.coefficients[0] * first(x) +
                       solution.coefficients[1] * second(x) - target(x);
    squares += off * off;
    whole += target(x) * target(x);
  }
  EXPECT_GT(solution.residual, 0.05);
  EXPECT_NEAR(solution.residual, std::sqrt(squares / whole), 1e-4);
}

TEST(Phema, RefusesWhatIsNoProfile) {
  EXPECT_THROW(solve_posthoc({}, {1000, 0.1}), Error);
  EXPECT_THROW(solve_posthoc({{0, 0.1}}, {1000, 0.1}), Error);
  EXPECT_THROW(solve_posthoc({{1000, 0.1}}, {1000, 0.3}), Error);
}

TEST(Phema, ProfilesAreNamedToTheLastDigit) {
  EXPECT_EQ(power_std_text(0.1), "0.100");
  EXPECT_EQ(power_std_text(0.0125), "0.0125");
  EmaProfile profile{.rule = EmaProfile::Rule::power, .std = 0.0125};
  EXPECT_EQ(profile.text(), "power=0.0125");
  EXPECT_EQ(profile.tag(), "0.0125");
  EXPECT_EQ(power_std_of_text(profile.text()), 0.0125);
  EXPECT_EQ(power_std_of_text("power=0.050"), 0.05);
  EXPECT_EQ(reconstructed_text(0.15), "power=0.150 (reconstructed)");
  EXPECT_FALSE(power_std_of_text(reconstructed_text(0.15)));
  EXPECT_FALSE(power_std_of_text("halflife=500000,rampup=0.05"));
}

}  // namespace
}  // namespace flowmap
