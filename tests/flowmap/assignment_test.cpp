#include "flowmap/assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/rng.h"

namespace flowmap {
namespace {

double cost_of(const std::vector<double>& cost, const std::vector<int64_t>& columns) {
  double sum = 0;
  for (std::size_t i = 0; i < columns.size(); ++i)
    sum += cost[i * columns.size() + static_cast<std::size_t>(columns[i])];
  return sum;
}

// Costs of both signs, in few steps so that many are equal.
TEST(Assignment, IsTheBestOfAllPermutations) {
  for (int64_t n = 1; n <= 7; ++n)
    for (uint64_t seed = 0; seed < 20; ++seed) {
      std::vector<float> draws(static_cast<std::size_t>(n * n));
      philox_uniforms(seed, stream_id("assignment_test"), 0, draws);
      std::vector<double> cost;
      for (const float u : draws)
        cost.push_back(seed % 2 ? static_cast<double>(u) - 0.5
                                : static_cast<double>(static_cast<int>(u * 5) - 2));
      std::vector<int64_t> order(static_cast<std::size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      double best = std::numeric_limits<double>::infinity();
      do best = std::min(best, cost_of(cost, order));
      while (std::next_permutation(order.begin(), order.end()));
      std::vector<int64_t> columns = least_cost_assignment(cost, n);
      EXPECT_NEAR(cost_of(cost, columns), best, 1e-12) << n << " " << seed;
      std::sort(columns.begin(), columns.end());
      std::iota(order.begin(), order.end(), 0);
      EXPECT_EQ(columns, order);
    }
}

TEST(Assignment, EdgesAndRefusals) {
  EXPECT_TRUE(least_cost_assignment({}, 0).empty());
  EXPECT_EQ(least_cost_assignment({1, 0, 0, 1}, 2), (std::vector<int64_t>{1, 0}));
  EXPECT_THROW(least_cost_assignment({1, 2, 3}, 2), Error);
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_THROW(least_cost_assignment({infinity, infinity, 0, 1}, 2), Error);
}

}  // namespace
}  // namespace flowmap
