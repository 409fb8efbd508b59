// Assignment of noise to data: against every permutation, and what must not change it.
#include "distill/ot_coupling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "flowmap/assignment.h"
#include "flowmap/base/error.h"
#include "flowmap/draw.h"

namespace flowmap::distill {
namespace {

struct Pairs {
  at::Tensor x1, noise;
  Pairs(uint64_t seed, int64_t n, std::vector<int64_t> shape) {
    const Draw draw(seed, 0, n);
    x1 = draw.normal("x1", shape) * 2 + 0.3;
    noise = draw.normal("noise", shape);
  }
};

double cost_of(const at::Tensor& x1, const at::Tensor& noise, const at::Tensor& pairing) {
  return (x1 - noise.index_select(0, pairing)).to(at::kDouble).square().sum().item<double>();
}

bool is_permutation(const at::Tensor& pairing) {
  return at::equal(std::get<0>(pairing.sort()), at::arange(pairing.size(0)));
}

TEST(OtPairing, IsTheBestOfAllPermutations) {
  for (int64_t n = 1; n <= 7; ++n)
    for (uint64_t seed = 0; seed < 12; ++seed) {
      const Pairs p(seed, n, {3});
      const at::Tensor pairing = ot_pairing(p.x1, p.noise);
      ASSERT_TRUE(is_permutation(pairing));
      std::vector<int64_t> order(static_cast<std::size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      double best = std::numeric_limits<double>::infinity();
      do
        best = std::min(best, cost_of(p.x1, p.noise, at::tensor(order, at::kLong)));
      while (std::next_permutation(order.begin(), order.end()));
      EXPECT_NEAR(cost_of(p.x1, p.noise, pairing), best, 1e-5 * best) << n << " " << seed;
    }
}

// On a line the best pairing keeps the order.
TEST(OtPairing, SortsOnALine) {
  const Pairs p(1, 300, {1});
  const at::Tensor by_x1 = p.x1.flatten().argsort(), by_noise = p.noise.flatten().argsort();
  EXPECT_TRUE(at::equal(ot_pairing(p.x1, p.noise).index_select(0, by_x1), by_noise));
}

TEST(OtPairing, NeverCostsMoreThanTheOldOne) {
  for (const int64_t n : {2, 16, 128}) {
    const Pairs p(2, n, {1, 4, 4});
    const at::Tensor pairing = ot_pairing(p.x1, p.noise);
    EXPECT_EQ(pairing.scalar_type(), at::kLong);
    EXPECT_TRUE(is_permutation(pairing));
    EXPECT_LE(cost_of(p.x1, p.noise, pairing), cost_of(p.x1, p.noise, at::arange(n)));
    // Nothing is left to win: paired rows pair with themselves.
    EXPECT_TRUE(at::equal(ot_pairing(p.x1, p.noise.index_select(0, pairing)),
                          at::arange(n)));
    EXPECT_TRUE(at::equal(ot_pairing(p.x1, p.noise * 0.5 + 3), pairing));
  }
  EXPECT_EQ(ot_pairing(at::empty({0, 2}), at::empty({0, 2})).size(0), 0);
}

// Equal costs everywhere still make a permutation.
TEST(OtPairing, TiesAreResolved) {
  const at::Tensor same = at::ones({9, 2});
  EXPECT_TRUE(is_permutation(ot_pairing(same, same)));
  EXPECT_EQ(least_cost_assignment({1, 0, 0, 1}, 2), (std::vector<int64_t>{1, 0}));
  EXPECT_THROW(least_cost_assignment({1, 2, 3}, 2), Error);
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_THROW(least_cost_assignment({infinity, infinity, 0, 1}, 2), Error);
}

// Groups stand where they stand in the step, however it is cut.
TEST(OtPairing, GroupsDoNotDependOnMicroBatches) {
  const Pairs p(3, 32, {2});
  const at::Tensor whole = ot_pairing_in_groups(p.x1, p.noise, 8, 0);
  EXPECT_TRUE(is_permutation(whole));
  for (const int64_t rows : {8, 16}) {
    std::vector<at::Tensor> parts;
    for (int64_t first = 0; first < 32; first += rows)
      parts.push_back(ot_pairing_in_groups(p.x1.narrow(0, first, rows),
                                           p.noise.narrow(0, first, rows), 8, first) +
                      first);
    EXPECT_TRUE(at::equal(at::cat(parts), whole)) << rows;
  }
  // Inside its group each is best, and groups do not mix.
  for (int64_t first = 0; first < 32; first += 8)
    EXPECT_TRUE(at::equal(
        whole.narrow(0, first, 8) - first,
        ot_pairing(p.x1.narrow(0, first, 8), p.noise.narrow(0, first, 8))));
  EXPECT_TRUE(at::equal(ot_pairing_in_groups(p.x1, p.noise, 0, 0), at::arange(32)));
  const auto in_groups = [&](int64_t rows, int64_t group, int64_t first) {
    return ot_pairing_in_groups(p.x1.narrow(0, 0, rows), p.noise.narrow(0, 0, rows), group,
                                first);
  };
  EXPECT_THROW(in_groups(32, 12, 0), UsageError);
  EXPECT_THROW(in_groups(16, 16, 8), UsageError);
}

TEST(OtPairing, GroupIsReadAndChecked) {
  const auto read = [](const char* text) {
    return read_ot_group(Config::from_text(text, "test"));
  };
  EXPECT_EQ(read("{}"), 0);
  EXPECT_EQ(read(R"({"ot_group": 0})"), 0);
  EXPECT_EQ(read(R"({"ot_group": 64})"), 64);
  EXPECT_THROW(read(R"({"ot_group": 1})"), UsageError);
  EXPECT_THROW(read(R"({"ot_group": -2})"), UsageError);
}

}  // namespace
}  // namespace flowmap::distill
