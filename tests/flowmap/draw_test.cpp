#include "flowmap/draw.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <cmath>
#include <set>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/rng.h"

namespace flowmap::testing {
namespace {

std::vector<float> floats(const at::Tensor& t) {
  return {t.const_data_ptr<float>(), t.const_data_ptr<float>() + t.numel()};
}

TEST(Draw, RowsAreTheBaseGenerators) {
  const Draw draw(11, 1000, 3);
  const at::Tensor normal = draw.normal("noise", {2, 5});
  const at::Tensor uniform = draw.fork("a").fork("b").uniform("time", {7});
  const at::Tensor integer = draw.integer("pick", {3}, 1000);
  EXPECT_EQ(normal.sizes(), at::IntArrayRef({3, 2, 5}));
  for (int64_t row = 0; row < 3; ++row) {
    const auto index = static_cast<std::uint64_t>(1000 + row);
    std::vector<float> want(10), flat(7);
    philox_normals(11, stream_id("noise"), index, want);
    EXPECT_EQ(floats(normal[row]), want);
    philox_uniforms(11, stream_id("a/b/time"), index, flat);
    EXPECT_EQ(floats(uniform[row]), flat);
    std::vector<std::uint32_t> words(6);
    philox_words(11, stream_id("pick"), index, words);
    for (std::size_t p = 0; p < 3; ++p) {
      // floor(word64 * 1000 / 2^64), by halves
      const std::uint64_t high = std::uint64_t{words[2 * p + 1]} * 1000;
      const std::uint64_t low = std::uint64_t{words[2 * p]} * 1000;
      EXPECT_EQ(integer[row][static_cast<int64_t>(p)].item<int64_t>(),
                static_cast<int64_t>((high + (low >> 32)) >> 32));
    }
  }
}

TEST(Draw, ARowDoesNotDependOnItsPlace) {
  const Draw whole = Draw(5, 40, 9).fork("step");
  const at::Tensor all = whole.normal("x", {3});
  EXPECT_TRUE(at::equal(whole.slice(2, 6).normal("x", {3}), all.narrow(0, 2, 4)));
  const at::Tensor picks = at::tensor({8, 0, 8, 3}, at::kLong);
  EXPECT_TRUE(
      at::equal(whole.select(picks).normal("x", {3}), all.index_select(0, picks)));
  EXPECT_TRUE(
      at::equal(Draw(5, 42, 4).fork("step").normal("x", {3}), all.narrow(0, 2, 4)));
  // A longer row starts like the shorter one.
  EXPECT_TRUE(at::equal(whole.normal("x", {7}).narrow(1, 0, 3), all));
}

TEST(Draw, OneSeedARow) {
  const Draw draw = Draw::per_seed({7, 99, 7});
  const at::Tensor x = draw.normal("latents", {4});
  EXPECT_TRUE(at::equal(x[0], x[2]));
  EXPECT_FALSE(at::equal(x[0], x[1]));
  EXPECT_TRUE(at::equal(x[1], Draw(99, 0, 1).normal("latents", {4})[0]));
}

TEST(Draw, StreamsSeedsAndRowsDiffer) {
  const Draw draw(3, 0, 2);
  const std::vector<at::Tensor> rows = {
      draw.normal("a", {6})[0],          draw.normal("a", {6})[1],
      draw.normal("b", {6})[0],          draw.fork("p").normal("a", {6})[0],
      Draw(4, 0, 1).normal("a", {6})[0], draw.uniform("a", {6})[0]};
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      EXPECT_FALSE(at::equal(rows[i], rows[j])) << i << j;
  EXPECT_TRUE(at::equal(draw.fork("p").normal("a", {6}), draw.normal("p/a", {6})));
}

TEST(Draw, MomentsAndRanges) {
  const Draw draw(1, 0, 20000);
  const at::Tensor n = draw.normal("n", {8}).to(at::kDouble);
  EXPECT_NEAR(n.mean().item<double>(), 0, 5 / 400.0);
  EXPECT_NEAR(n.var().item<double>(), 1, 5 * std::sqrt(2.0) / 400);
  const at::Tensor u = draw.uniform("u", {}).to(at::kDouble);
  EXPECT_EQ(u.sizes(), at::IntArrayRef({20000}));
  EXPECT_NEAR(u.mean().item<double>(), 0.5, 5 * 0.2887 / 141);
  EXPECT_GE(u.min().item<double>(), 0);
  EXPECT_LT(u.max().item<double>(), 1);
  const at::Tensor counts = at::bincount(draw.integer("i", {}, 5), {}, 5);
  EXPECT_EQ(counts.numel(), 5);
  for (int64_t i = 0; i < 5; ++i)
    EXPECT_NEAR(counts[i].item<double>(), 4000, 5 * std::sqrt(20000 * 0.16));
  const int64_t huge = int64_t{1} << 62;
  const at::Tensor wide = draw.integer("wide", {}, huge);
  EXPECT_GE(wide.min().item<int64_t>(), 0);
  EXPECT_LT(wide.max().item<int64_t>(), huge);
  EXPECT_GT(wide.max().item<int64_t>(), huge / 1000 * 999);
}

TEST(Draw, EmptyDrawsAndBadArguments) {
  EXPECT_EQ(Draw(1, 0, 0).normal("x", {3}).sizes(), at::IntArrayRef({0, 3}));
  EXPECT_EQ(Draw(1, 0, 2).normal("x", {0}).sizes(), at::IntArrayRef({2, 0}));
  EXPECT_THROW(Draw(1, 0, -1), Error);
  EXPECT_THROW(Draw(1, 0, 3).slice(1, 4), Error);
  EXPECT_THROW(Draw(1, 0, 3).slice(2, 1), Error);
  EXPECT_THROW(Draw(1, 0, 3).select(at::tensor({3}, at::kLong)), Error);
  EXPECT_THROW(Draw(1, 0, 3).select(at::tensor({0.0})), Error);
  EXPECT_THROW(Draw(1, 0, 3).integer("x", {}, 0), Error);
}

TEST(ShuffledIndex, EveryEpochIsItsOwnPermutation) {
  for (const int64_t n : {1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097}) {
    std::set<std::vector<int64_t>> orders;
    for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<int64_t> order;
      for (int64_t k = 0; k < n; ++k)
        order.push_back(shuffled_index(
            9, epoch * static_cast<std::uint64_t>(n) + static_cast<std::uint64_t>(k), n));
      const std::set<int64_t> distinct(order.begin(), order.end());
      ASSERT_EQ(static_cast<int64_t>(distinct.size()), n);
      ASSERT_EQ(*distinct.begin(), 0);
      ASSERT_EQ(*distinct.rbegin(), n - 1);
      orders.insert(order);
    }
    if (n >= 16) {
      EXPECT_EQ(orders.size(), 3u) << n;
    }
  }
}

TEST(ShuffledIndex, DiffersBySeedAndHasNoPattern) {
  constexpr int64_t n = 10000;
  int64_t equal_to_other_seed = 0, in_place = 0, neighbours = 0;
  double correlation = 0;
  for (std::uint64_t k = 0; k + 1 < n; ++k) {
    const int64_t here = shuffled_index(1, k, n);
    equal_to_other_seed += here == shuffled_index(2, k, n);
    in_place += here == static_cast<int64_t>(k);
    neighbours += shuffled_index(1, k + 1, n) - here == 1;
    correlation += (here / double{n} - 0.5) * (k / double{n} - 0.5) * 12 / n;
  }
  EXPECT_LE(equal_to_other_seed, 8);
  EXPECT_LE(in_place, 8);
  EXPECT_LE(neighbours, 8);
  EXPECT_NEAR(correlation, 0, 5.0 / std::sqrt(n));
}

TEST(ShuffledIndex, SmallSetsReachEveryOrder) {
  std::set<std::vector<int64_t>> orders;
  for (std::uint64_t epoch = 0; epoch < 200; ++epoch)
    orders.insert({shuffled_index(5, 3 * epoch, 3), shuffled_index(5, 3 * epoch + 1, 3),
                   shuffled_index(5, 3 * epoch + 2, 3)});
  EXPECT_EQ(orders.size(), 6u);
}

TEST(ShuffledIndex, LargestSizeAndBounds) {
  const int64_t n = int64_t{1} << 40;
  std::set<int64_t> seen;
  for (std::uint64_t k = 0; k < 1000; ++k) {
    const int64_t at = shuffled_index(3, k, n);
    EXPECT_GE(at, 0);
    EXPECT_LT(at, n);
    seen.insert(at);
  }
  EXPECT_EQ(seen.size(), 1000u);
  EXPECT_THROW(shuffled_index(3, 0, 0), Error);
  EXPECT_THROW(shuffled_index(3, 0, n + 1), Error);
}

}  // namespace
}  // namespace flowmap::testing
