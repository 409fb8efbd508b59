#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/rng.h"
#include "metrics/metric.h"

namespace flowmap::metrics {
namespace {

at::Tensor normals(std::uint64_t seed, int64_t rows, int64_t columns) {
  std::vector<float> numbers(static_cast<std::size_t>(rows * columns));
  philox_normals(seed, stream_id("feature_set_test"), 0, numbers);
  return at::tensor(numbers, at::kDouble).view({rows, columns});
}

// The textbook two-pass form, rows shifted by a constant that is exact.
at::Tensor two_pass_scatter(const at::Tensor& rows) {
  const at::Tensor centred = rows - rows.mean(0);
  return centred.t().mm(centred);
}

void expect_close(const at::Tensor& a, const at::Tensor& b, double relative) {
  EXPECT_LT((a - b).abs().max().item<double>(),
            relative * b.abs().max().item<double>());
}

TEST(FeatureSet, BatchesOfAnySizeAgreeWithOnePass) {
  const at::Tensor rows = normals(1, 257, 6);
  for (const int64_t size : {1, 7, 64, 257}) {
    FeatureSet set;
    for (int64_t at = 0; at < 257; at += size)
      set.add(rows.narrow(0, at, std::min<int64_t>(size, 257 - at)));
    EXPECT_EQ(set.count, 257);
    expect_close(set.mean, rows.mean(0), 1e-13);
    expect_close(set.scatter, two_pass_scatter(rows), 1e-13);
    expect_close(set.covariance(), two_pass_scatter(rows) / 256.0, 1e-13);
  }
}

// Mean 1e4, spread 1e-2: sums of squares in float64 would keep four digits of the
// variance, float32 none.
TEST(FeatureSet, SafeFarFromZero) {
  const at::Tensor small = normals(2, 1000, 4) * 1e-2;
  const at::Tensor shifted = small + 1e4;
  // What the shift itself rounds away is not the accumulator's fault.
  const at::Tensor expected = two_pass_scatter(shifted - 1e4);
  FeatureSet batched;
  for (int64_t at = 0; at < 1000; at += 50) batched.add(shifted.narrow(0, at, 50));
  expect_close(batched.scatter, expected, 1e-9);
  const at::Tensor naive =
      shifted.t().mm(shifted) - 1000 * at::outer(shifted.mean(0), shifted.mean(0));
  EXPECT_GT((naive - expected).abs().max().item<double>(),
            1e-5 * expected.abs().max().item<double>());
}

TEST(FeatureSet, MergeEqualsAdd) {
  const at::Tensor rows = normals(3, 100, 5) + 3;
  FeatureSet whole, left, right, empty;
  for (FeatureSet* set : {&whole, &left, &right}) set->keep_features = true;
  whole.add(rows);
  left.add(rows.narrow(0, 0, 30));
  right.add(rows.narrow(0, 30, 70));
  left.merge(right);
  left.merge(empty);
  EXPECT_EQ(left.count, 100);
  expect_close(left.mean, whole.mean, 1e-14);
  expect_close(left.scatter, whole.scatter, 1e-13);
  EXPECT_TRUE(at::equal(left.features, rows));
  FeatureSet from_empty;
  from_empty.merge(right);
  EXPECT_EQ(from_empty.count, 70);
  EXPECT_TRUE(at::equal(from_empty.scatter, right.scatter));
}

TEST(FeatureSet, KeptFeaturesAreACopy) {
  at::Tensor batch = at::ones({2, 3});
  FeatureSet set;
  set.keep_features = true;
  set.add(batch);
  batch.zero_();
  EXPECT_TRUE(at::equal(set.features, at::ones({2, 3})));
}

// Copies of a set go on by themselves, though they share what they have in common.
TEST(FeatureSet, CopiesGoOnApart) {
  const at::Tensor rows = normals(4, 55, 3), others = normals(5, 55, 3);
  FeatureSet a;
  a.keep_features = true;
  for (int64_t at = 0; at < 50; at += 10) a.add(rows.narrow(0, at, 10));
  FeatureSet b = a;
  const at::Tensor seen = a.features, seen_before = a.features.clone();
  a.add(rows.narrow(0, 50, 5));
  b.add(others.narrow(0, 50, 5));
  EXPECT_TRUE(at::equal(seen, seen_before));
  EXPECT_TRUE(at::equal(a.features, rows));
  EXPECT_TRUE(at::equal(
      b.features, at::cat({rows.narrow(0, 0, 50), others.narrow(0, 50, 5)})));
  expect_close(a.scatter, two_pass_scatter(rows), 1e-13);
  expect_close(b.scatter, two_pass_scatter(b.features), 1e-13);
  expect_close(a.mean, rows.mean(0), 1e-12);
  expect_close(b.mean, b.features.mean(0), 1e-12);
}

TEST(FeatureSet, Refusals) {
  FeatureSet set;
  set.add(at::ones({1, 3}));
  EXPECT_THROW(set.covariance(), Error);
  EXPECT_THROW(set.add(at::ones({2, 4})), Error);
  EXPECT_THROW(set.add(at::ones({2})), Error);
}

}  // namespace
}  // namespace flowmap::metrics
