#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <tuple>

#include "flowmap/base/error.h"
#include "flowmap/ops_moments.h"
#include "flowmap/ops_pairwise.h"

namespace flowmap {
namespace {

struct Moments {
  int64_t count = 0;
  at::Tensor mean, scatter;
  void add(const at::Tensor& rows) { ops::add_moments(count, mean, scatter, rows); }
};

// Of all rows at once, in float64 around the exact mean of integers.
Moments direct(const at::Tensor& rows) {
  const at::Tensor x = rows.to(at::kDouble);
  const at::Tensor mean = x.mean(0);
  const at::Tensor centred = x - mean;
  return {x.size(0), mean, centred.t().mm(centred)};
}

void expect_close(const Moments& got, const Moments& want, double tolerance) {
  EXPECT_EQ(got.count, want.count);
  EXPECT_LE((got.mean - want.mean).abs().max().item<double>(),
            tolerance * (1 + want.mean.abs().max().item<double>()));
  EXPECT_LE((got.scatter - want.scatter).abs().max().item<double>(),
            tolerance * want.scatter.diagonal().max().item<double>());
  EXPECT_TRUE(at::equal(got.scatter, got.scatter.t()));
}

at::Tensor random_rows(int64_t n, int64_t d, int64_t seed) {
  at::manual_seed(static_cast<uint64_t>(seed));
  return at::randn({n, d});
}

TEST(OpsMoments, BatchesMakeWhatTheWholeMakes) {
  for (const int64_t d : {1, 16, 33, 300}) {
    SCOPED_TRACE(d);
    const at::Tensor rows = random_rows(131, d, d) * 3 + 5;
    Moments in_batches, whole;
    for (const int64_t size : {1, 0, 31, 2, 97})
      in_batches.add(rows.slice(0, in_batches.count, in_batches.count + size));
    whole.add(rows);
    const Moments want = direct(rows);
    expect_close(whole, want, 1e-13);
    expect_close(in_batches, want, 1e-13);
  }
}

// Where float32 accumulation, or sums of squares, lose everything.
TEST(OpsMoments, SpreadFarBelowTheMean) {
  const at::Tensor small = random_rows(500, 20, 7) * 1e-2;
  const at::Tensor rows = small.to(at::kDouble) + 1e4;
  Moments moments;
  for (int64_t i = 0; i < 500; i += 50) moments.add(rows.slice(0, i, i + 50));
  // Subtracting 1e4 is exact. What stays is the rounding of the mean, 2^-53 * 1e4 / 1e-2;
  // sums of squares would leave 1e-4, float32 nothing at all.
  const Moments want = direct(rows - 1e4);
  EXPECT_LE((moments.scatter - want.scatter).abs().max().item<double>(),
            1.2e-10 * want.scatter.diagonal().max().item<double>());
}

TEST(OpsMoments, MergeIsTheUnion) {
  const at::Tensor rows = random_rows(80, 37, 3) + 2;
  Moments left, right, empty;
  left.add(rows.slice(0, 0, 30));
  right.add(rows.slice(0, 30, 80));
  const at::Tensor kept = right.scatter.clone();
  ops::merge_moments(empty.count, empty.mean, empty.scatter, left.count, left.mean,
                     left.scatter);
  ops::merge_moments(empty.count, empty.mean, empty.scatter, right.count, right.mean,
                     right.scatter);
  expect_close(empty, direct(rows), 1e-13);
  EXPECT_TRUE(at::equal(right.scatter, kept));
  EXPECT_NE(empty.scatter.data_ptr(), left.scatter.data_ptr());
}

TEST(OpsMoments, ConstantRowsHaveNoScatter) {
  Moments moments;
  for (int i = 0; i < 3; ++i) moments.add(at::full({7, 5}, 0.1f));
  EXPECT_EQ(moments.scatter.abs().max().item<double>(), 0);
}

TEST(OpsMoments, RefusesOtherShapes) {
  Moments moments;
  moments.add(at::zeros({2, 3}));
  EXPECT_THROW(moments.add(at::zeros({2, 4})), Error);
  EXPECT_THROW(moments.add(at::zeros({3})), Error);
  EXPECT_THROW(moments.add(at::zeros({2, 3}, at::kLong)), Error);
}

TEST(OpsPairwise, AgreesWithTheComposition) {
  for (const auto& [n, m, d] : {std::tuple{0, 3, 2}, {3, 0, 2}, {1, 1, 1}, {250, 67, 33}}) {
    SCOPED_TRACE(n);
    const at::Tensor x = random_rows(n, d, 1), y = random_rows(m, d, 2);
    const at::Tensor xd = x.to(at::kDouble), yd = y.to(at::kDouble);
    const at::Tensor squares = ops::squared_distances(x, y);
    const at::Tensor want = (xd.unsqueeze(1) - yd.unsqueeze(0)).square().sum(2);
    EXPECT_TRUE(at::allclose(squares, want, 1e-13, 0));

    const auto expect_counts = [&](bool inclusive) {
      const auto within = [&](const at::Tensor& radii) {
        return (inclusive ? squares <= radii : squares < radii).sum(1);
      };
      // Each row's own radius is one of its distances: ties.
      const at::Tensor own = m > 0 ? squares.select(1, m / 2).contiguous()
                                   : at::ones({n}, at::kDouble);
      const at::Tensor other = n > 0 ? squares.select(0, n / 2).contiguous()
                                     : at::ones({m}, at::kDouble);
      EXPECT_TRUE(at::equal(ops::count_within_own(x, y, own, inclusive),
                            within(own.unsqueeze(1))));
      EXPECT_TRUE(at::equal(ops::count_within_others(x, y, other, inclusive),
                            within(other)));
    };
    expect_counts(true);
    expect_counts(false);

    at::Tensor terms = (xd.mm(yd.t()) / d + 1).pow(3);
    EXPECT_TRUE(at::allclose(ops::polynomial_sums(x, y), terms.sum(1), 1e-12, 1e-12));
    terms.diagonal(2).zero_();
    EXPECT_TRUE(at::allclose(ops::polynomial_sums(x, y, 2), terms.sum(1), 1e-12, 1e-12));
  }
}

TEST(OpsPairwise, ThreadsChangeNoBit) {
  const at::Tensor x = random_rows(500, 40, 5), y = random_rows(90, 40, 6);
  const int threads = at::get_num_threads();
  at::set_num_threads(3);
  const at::Tensor squares = ops::squared_distances(x, y);
  const at::Tensor sums = ops::polynomial_sums(x, y, 0);
  at::set_num_threads(1);
  EXPECT_TRUE(at::equal(ops::squared_distances(x, y), squares));
  EXPECT_TRUE(at::equal(ops::polynomial_sums(x, y, 0), sums));
  at::set_num_threads(threads);
}

TEST(OpsPairwise, RefusesWhatDoesNotFit) {
  const at::Tensor x = at::zeros({2, 3}), y = at::zeros({4, 3});
  EXPECT_THROW(ops::squared_distances(x, at::zeros({4, 2})), Error);
  EXPECT_THROW(ops::squared_distances(x, y.to(at::kDouble)), Error);
  EXPECT_THROW(ops::squared_distances(x.slice(1, 0, 0), y.slice(1, 0, 0)), Error);
  EXPECT_THROW(ops::count_within_own(x, y, at::zeros({4}, at::kDouble), true), Error);
  EXPECT_THROW(ops::count_within_others(x, y, at::zeros({4}), true), Error);
}

}  // namespace
}  // namespace flowmap
