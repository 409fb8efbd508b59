#include "metrics/frechet.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/rng.h"
#include "flowmap/tensor_io.h"
#include "tests/support/reference.h"

namespace flowmap::metrics {
namespace {

namespace fs = std::filesystem;

FeatureSet from_features(const at::Tensor& rows) {
  FeatureSet set;
  set.keep_features = true;
  set.add(rows.to(at::kDouble));
  return set;
}

FeatureSet from_statistics(const at::Tensor& mu, const at::Tensor& sigma) {
  FeatureSet set;
  set.count = 2;  // scatter = covariance
  set.mean = mu;
  set.scatter = sigma;
  return set;
}

at::Tensor normals(std::uint64_t seed, int64_t rows, int64_t columns) {
  std::vector<float> numbers(static_cast<std::size_t>(rows * columns));
  philox_normals(seed, stream_id("frechet_test"), 0, numbers);
  return at::tensor(numbers, at::kDouble).view({rows, columns});
}

// Diagonal covariances: |m1 - m2|^2 + sum (sqrt a - sqrt b)^2.
TEST(Frechet, DiagonalClosedForm) {
  const at::Tensor a = at::tensor({4.0, 1.0, 0.0}), b = at::tensor({1.0, 9.0, 2.0});
  const FeatureSet first = from_statistics(at::zeros({3}, at::kDouble), at::diag(a));
  const FeatureSet second =
      from_statistics(at::tensor({1.0, 2.0, -2.0}), at::diag(b));
  EXPECT_NEAR(frechet_distance(first, second), 9 + 1 + 4 + 2, 1e-12);
  EXPECT_NEAR(frechet_distance(second, first), 9 + 1 + 4 + 2, 1e-12);
}

TEST(Frechet, EqualSetsGiveZeroAndNoSign) {
  for (const bool keep : {false, true}) {
    FeatureSet set;
    set.keep_features = keep;
    set.add(normals(1, 40, 12));
    const double distance = frechet_distance(set, set);
    EXPECT_GE(distance, 0);
    EXPECT_FALSE(std::signbit(distance));
    EXPECT_LT(distance, 1e-12 * 24);
  }
}

// A shift of every feature adds its square and nothing else.
TEST(Frechet, ShiftAddsItsSquare) {
  const at::Tensor rows = normals(2, 200, 8);
  FeatureSet a, b;
  a.add(rows);
  b.add(rows + 3);
  EXPECT_NEAR(frechet_distance(a, b), 72, 1e-10);
}

// Features and their statistics agree where N > d, and mixed pairs too.
TEST(Frechet, FeaturesAgreeWithStatistics) {
  const at::Tensor x = normals(3, 60, 16), y = normals(4, 90, 16) * 1.5 + 0.2;
  FeatureSet xs, ys;
  xs.add(x);
  ys.add(y);
  const FeatureSet xf = from_features(x), yf = from_features(y);
  const double expected = frechet_distance(xf, yf);
  EXPECT_NEAR(frechet_distance(xs, ys), expected, 1e-12 * 60);
  EXPECT_NEAR(frechet_distance(xf, ys), expected, 1e-12 * 60);
  EXPECT_NEAR(frechet_distance(xs, yf), expected, 1e-12 * 60);
}

// No matrix larger than min(N, d).
TEST(Frechet, FactorSizes) {
  const auto rows_of = [](const FeatureSet& set) {
    return covariance_factor(set).size(0);
  };
  EXPECT_EQ(rows_of(from_features(normals(5, 5, 30))), 5);
  EXPECT_EQ(rows_of(from_features(normals(5, 50, 30))), 30);
  const FeatureSet wide = from_features(normals(6, 50, 30));
  const at::Tensor f = covariance_factor(wide);
  EXPECT_LT((f.t().mm(f) - wide.covariance()).abs().max().item<double>(), 1e-14 * 30);
}

TEST(Frechet, Refusals) {
  FeatureSet one, two, other;
  one.add(at::ones({1, 3}));
  two.add(normals(7, 4, 3));
  other.add(normals(7, 4, 5));
  EXPECT_THROW(frechet_distance(one, two), Error);
  EXPECT_THROW(frechet_distance(two, other), Error);
  FeatureSet broken = two;
  broken.mean = at::full({3}, std::nan(""), at::kDouble);
  EXPECT_THROW(frechet_distance(two, broken), Error);
  FeatureSet hollow = from_features(at::full({4, 3}, std::nan("")));
  EXPECT_THROW(frechet_distance(two, hollow), Error);
}

// --- reference numbers -------------------------------------------------------------

fs::path reference(const char* name) {
  return testing::reference_folder() / "metrics" / name;
}

nlohmann::json read_json(const fs::path& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in);
}

TEST(FrechetReference, SmallCases) {
  FM_NEED_FILE(reference("frechet_small.json"));
  const auto cases = read_json(reference("frechet_small.json"));
  const auto tensors = load_tensors(reference("frechet_small.safetensors"));
  ASSERT_GE(cases.size(), 22u);
  for (const auto& [name, item] : cases.items()) {
    const double expected = item.at("reference"), trace = item.at("trace_sum");
    const auto get = [&, &key = name](const std::string& part) {
      return tensors.at(key + "/" + part);
    };
    const bool deficient = name.find("deficient") != std::string::npos;
    const FeatureSet first = from_statistics(get("mu1"), get("sigma1"));
    const FeatureSet second = from_statistics(get("mu2"), get("sigma2"));
    const double distance = frechet_distance(first, second);
    EXPECT_NEAR(distance, expected, (deficient ? 1e-7 : 1e-13) * trace) << name;
    if (tensors.count(name + "/features1") == 0) continue;
    EXPECT_NEAR(frechet_distance(from_features(get("features1")),
                                 from_features(get("features2"))),
                expected, 1e-12 * trace)
        << name << " from features";
  }
}

// Row-major draws % (2m + 1) - m of splitmix64 (the README's recipe).
at::Tensor ints(std::uint64_t seed, int64_t rows, int64_t columns, std::uint64_t m) {
  at::Tensor out = at::empty({rows, columns}, at::kDouble);
  double* p = out.data_ptr<double>();
  std::uint64_t state = seed;
  for (int64_t k = 0; k < out.numel(); ++k) {
    state += 0x9E3779B97F4A7C15u;
    std::uint64_t z = state;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    p[k] = static_cast<double>(z % (2 * m + 1)) - static_cast<double>(m);
  }
  return out;
}

void check_transport_case(const std::string& name, const nlohmann::json& item) {
  const auto d = item.at("dim").get<int64_t>();
  const auto seed = item.at("seed").get<std::uint64_t>();
  const at::Tensor z = ints(seed, d, item.at("r"), 7);
  const at::Tensor b = ints(seed + 1, d, item.at("p"), 1);
  const at::Tensor u = ints(seed + 2, d, 1, 15).view({d});
  const at::Tensor sigma1 = z.mm(z.t()) / (1 << 20);
  const at::Tensor t = at::eye(d, at::kDouble) + b.mm(b.t()) / item.at("k").get<double>();
  const at::Tensor sigma2 = t.mm(sigma1).mm(t);
  const at::Tensor mu2 = u * (item.at("mu_scale").get<double>() / 256);
  for (int64_t j = 0; j < 3; ++j) {
    EXPECT_EQ(sigma1[0][j].item<double>(), item.at("sigma1[0,0:3]")[j].get<double>());
    EXPECT_EQ(sigma2[0][j].item<double>(), item.at("sigma2[0,0:3]")[j].get<double>());
  }
  const double trace =
      item.at("trace1").get<double>() + item.at("trace2").get<double>();
  const double distance =
      frechet_distance(from_statistics(at::zeros({d}, at::kDouble), sigma1),
                       from_statistics(mu2, sigma2));
  const double tolerance = name.find("deficient") == 0 ? 1e-7 : 1e-13;
  EXPECT_NEAR(distance, item.at("reference").get<double>(), tolerance * trace) << name;
}

void check_transport_cases(const char* ending) {
  FM_NEED_FILE(reference("frechet_large.json"));
  const auto cases = read_json(reference("frechet_large.json"));
  int checked = 0;
  for (const auto& [name, item] : cases.items()) {
    if (item.at("how") != "ot" || name.find(ending) == std::string::npos) continue;
    check_transport_case(name, item);
    ++checked;
  }
  EXPECT_EQ(checked, 3);
}

TEST(FrechetReference, Transport768) { check_transport_cases("_768"); }
TEST(FrechetReference, Transport2048) { check_transport_cases("_2048"); }

TEST(FrechetReference, Features768) {
  FM_NEED_FILE(reference("frechet_large.json"));
  const auto item = read_json(reference("frechet_large.json")).at("features_768");
  const at::Tensor x = ints(item.at("seeds")[0], item.at("rows")[0], 768,
                            item.at("bounds")[0].get<std::uint64_t>());
  const at::Tensor y = ints(item.at("seeds")[1], item.at("rows")[1], 768,
                            item.at("bounds")[1].get<std::uint64_t>());
  const double trace =
      item.at("trace1").get<double>() + item.at("trace2").get<double>();
  const double expected = item.at("reference");
  EXPECT_NEAR(frechet_distance(from_features(x), from_features(y)), expected,
              1e-12 * trace);
  FeatureSet xs, ys;
  xs.add(x);
  ys.add(y);
  EXPECT_NEAR(frechet_distance(xs, ys), expected, 1e-7 * trace);
}

TEST(FrechetReference, GoldenPool3) {
  const fs::path path =
      testing::data_folder() / "inception" / "pool3_golden_roses_tulips.safetensors";
  FM_NEED_FILE(path);
  const auto tensors = load_tensors(path);
  FeatureSet roses, tulips;
  roses.keep_features = tulips.keep_features = true;
  roses.add(tensors.at("roses"));
  tulips.add(tensors.at("tulips"));
  const double trace = roses.covariance().trace().item<double>() +
                       tulips.covariance().trace().item<double>();
  const double expected = 111.98475374827285;
  EXPECT_NEAR(frechet_distance(roses, tulips), expected, 1e-12 * trace);
  roses.features = tulips.features = at::Tensor();
  EXPECT_NEAR(frechet_distance(roses, tulips), expected, 1e-7 * trace);
}

}  // namespace
}  // namespace flowmap::metrics
