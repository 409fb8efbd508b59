// numpy's legacy generator against numbers that numpy 2.3 printed.
#include "metrics/numpy_random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "flowmap/base/error.h"

namespace flowmap::metrics {
namespace {

using ::testing::ElementsAre;

// Matsumoto and Nishimura's own check of init_genrand(5489): the 10000th word.
TEST(NumpyRandom, TenThousandthWord) {
  NumpyRandom random(5489);
  std::uint32_t word = 0;
  for (int i = 0; i < 10000; ++i) word = random.next();
  EXPECT_EQ(word, 4123659995u);
}

TEST(NumpyRandom, Permutations) {
  EXPECT_THAT(NumpyRandom(2020).permutation(10),
              ElementsAre(2, 4, 9, 1, 5, 7, 6, 3, 8, 0));
  EXPECT_THAT(NumpyRandom(2020).permutation(1), ElementsAre(0));
  EXPECT_TRUE(NumpyRandom(2020).permutation(0).empty());
}

// Each draw goes on where the last stopped.
TEST(NumpyRandom, Choices) {
  NumpyRandom random(7);
  const auto first = random.choice(60, 5), second = random.choice(5, 5);
  NumpyRandom again(7);
  const auto whole = again.permutation(60);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), whole.begin()));
  EXPECT_THAT(second, ElementsAre(0, 2, 4, 3, 1));
  EXPECT_THAT(first, ElementsAre(31, 20, 59, 17, 10));
  EXPECT_THROW(random.choice(3, 4), Error);
}

}  // namespace
}  // namespace flowmap::metrics
