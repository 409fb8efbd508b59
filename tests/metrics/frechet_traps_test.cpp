// Where Fréchet distances go wrong: fewer samples than features, copies, features that
// never move, a mean far from 0, sets that are equal.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "metrics/frechet.h"
#include "metrics/metric.h"

namespace flowmap::metrics {
namespace {

at::Tensor trap_rows(uint64_t seed, int64_t n, int64_t d) {
  return Draw(seed, 0, n).normal("frechet_traps_test", {d}).to(at::kDouble);
}

FeatureSet set_of(const at::Tensor& rows, bool keep) {
  FeatureSet set;
  set.keep_features = keep;
  for (int64_t at = 0; at < rows.size(0); at += 32)
    set.add(rows.narrow(0, at, std::min<int64_t>(32, rows.size(0) - at)));
  return set;
}

double trace_of(const FeatureSet& set) {
  return set.covariance().trace().item<double>();
}

// tr sqrt(S1 S2) by its definition, with twice the rows' products: a plain eigenvalue form
// for what is well conditioned.
double plain_distance(const at::Tensor& x, const at::Tensor& y) {
  const FeatureSet a = set_of(x, false), b = set_of(y, false);
  const auto [values, vectors] = at::linalg_eigh(a.covariance());
  const at::Tensor root =
      vectors.mm(at::diag(values.clamp_min(0).sqrt())).mm(vectors.t());
  const at::Tensor inner = root.mm(b.covariance()).mm(root);
  const double cross = at::linalg_eigvalsh((inner + inner.t()) / 2)
                           .clamp_min(0).sqrt().sum().item<double>();
  return (a.mean - b.mean).square().sum().item<double>() + trace_of(a) + trace_of(b) -
         2 * cross;
}

TEST(FrechetTraps, EqualSets) {
  for (const int64_t n : {20, 64, 300}) {  // fewer, as many, more than features
    const at::Tensor rows = trap_rows(1, n, 64) * 3 + 2;
    const FeatureSet kept = set_of(rows, true), moments = set_of(rows, false);
    const double trace = 2 * trace_of(kept);
    EXPECT_LE(frechet_distance(kept, kept), 1e-9 * trace) << n;
    EXPECT_LE(frechet_distance(moments, moments), 1e-7 * trace) << n;
    // The same rows in another order.
    const FeatureSet turned = set_of(rows.flip(0), true);
    const double distance = frechet_distance(kept, turned);
    EXPECT_LE(distance, 1e-9 * trace) << n;
    EXPECT_FALSE(std::signbit(distance)) << n;
  }
}

TEST(FrechetTraps, FewerSamplesThanFeatures) {
  const at::Tensor x = trap_rows(2, 20, 64), y = trap_rows(3, 24, 64) * 1.5;
  const FeatureSet a = set_of(x, true), b = set_of(y, true);
  const double expected = plain_distance(x, y), trace = trace_of(a) + trace_of(b);
  EXPECT_NEAR(frechet_distance(a, b), expected, 1e-6 * trace);
  EXPECT_NEAR(frechet_distance(set_of(x, false), set_of(y, false)),
              frechet_distance(a, b), 1e-7 * trace);
}

// Every row twice: the covariance only changes by the divisor.
TEST(FrechetTraps, Copies) {
  const at::Tensor x = trap_rows(4, 100, 16), y = trap_rows(5, 100, 16) * 2 + 1;
  const FeatureSet doubled = set_of(x.repeat({2, 1}), true), b = set_of(y, true);
  FeatureSet scaled = set_of(x, false);
  scaled.scatter *= 2.0 * 99 / 199;
  EXPECT_NEAR(frechet_distance(doubled, b), frechet_distance(scaled, b),
              1e-12 * (trace_of(doubled) + trace_of(b)));
  const FeatureSet one = set_of(at::ones({50, 16}), true);
  EXPECT_EQ(frechet_distance(one, one), 0);
  EXPECT_NEAR(frechet_distance(one, b),
              (b.mean - 1).square().sum().item<double>() + trace_of(b), 1e-10);
}

// Some features never move: they add their means' difference and nothing else.
TEST(FrechetTraps, ConstantFeatures) {
  const at::Tensor x = trap_rows(6, 200, 8), y = trap_rows(7, 220, 8) * 1.3;
  const auto widened = [](const at::Tensor& rows, double value) {
    return at::cat({rows, at::full({rows.size(0), 5}, value, at::kDouble)}, 1);
  };
  const double expected = frechet_distance(set_of(x, true), set_of(y, true)) + 5 * 0.25;
  for (const bool keep : {true, false})
    EXPECT_NEAR(frechet_distance(set_of(widened(x, 1), keep), set_of(widened(y, 1.5), keep)),
                expected, keep ? 1e-11 : 1e-6);
}

// Mean 1e4, spread 1e-2: float32 sums have no digit of the variance left.
TEST(FrechetTraps, FarFromZero) {
  const at::Tensor x = trap_rows(8, 300, 12) * 1e-2, y = trap_rows(9, 280, 12) * 2e-2;
  const double expected = frechet_distance(set_of(x, true), set_of(y, true));
  for (const bool keep : {true, false})
    EXPECT_NEAR(frechet_distance(set_of(x + 1e4, keep), set_of(y + 1e4, keep)), expected,
                1e-8 * expected);
}

// A few large variances and many small equal ones, commuting covariances: eigenvalues of
// the product's Gram matrix lose the small ones (1e-10 of the trace), and the bound must
// see it; and a spread too wide for Cholesky factors.
TEST(FrechetTraps, SmallVariancesBesideLargeOnes) {
  at::Tensor steps = at::full({24}, 3e-4, at::kDouble);
  steps.narrow(0, 0, 4).fill_(1);
  const at::Tensor vectors = std::get<0>(at::linalg_qr(trap_rows(10, 24, 24)));
  for (const at::Tensor& scale : {steps, at::logspace(0, -5, 24, 10, at::kDouble)}) {
    FeatureSet a, b;
    a.count = b.count = 2;
    a.mean = b.mean = at::zeros({24}, at::kDouble);
    a.scatter = vectors.mm(at::diag(scale.square())).mm(vectors.t());
    b.scatter = vectors.mm(at::diag((scale * 1.001).square())).mm(vectors.t());
    const double expected = (scale * 0.001).square().sum().item<double>();
    const double trace = 2 * scale.square().sum().item<double>();
    EXPECT_NEAR(frechet_distance(a, b), expected, 1e-13 * trace) << scale;
  }
}

TEST(FrechetTraps, Entries) {
  const FeatureSet a = set_of(trap_rows(1, 30, 4), true);
  const FeatureSet b = set_of(trap_rows(2, 30, 4), true);
  const auto fd = make_metric("fd", Config());
  EXPECT_EQ(fd->layer(), "");
  EXPECT_EQ(fd->detector(), "");
  EXPECT_EQ(make_metric("fd768", Config())->layer(), "768");
  const auto fid = make_metric("fid", Config());
  EXPECT_EQ(fid->layer(), "2048");
  EXPECT_EQ(fid->detector(), "inception");
  EXPECT_EQ(fid->compute(a, b).at(0).value, frechet_distance(a, b));
  EXPECT_EQ(make_metric("fid64", Config())->layer(), "64");
  EXPECT_THROW(make_metric("fid65", Config()), UsageError);
  EXPECT_EQ(make_metric("sfid", Config())->layer(), "spatial");
  EXPECT_EQ(make_metric("sfid", Config())->detector(), "inception");
}

}  // namespace
}  // namespace flowmap::metrics
