// The draws of numpy.random.RandomState that other metric tools make their subsets with.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace flowmap::metrics {

// MT19937 (Matsumoto and Nishimura 1998) seeded with one 32-bit number, as
// numpy.random.RandomState(seed) and numpy.random.seed(seed) do, and numpy's legacy
// permutation, which numpy keeps frozen.
class NumpyRandom {
 public:
  explicit NumpyRandom(std::uint32_t seed);
  std::uint32_t next();
  // RandomState.permutation(n), n in [0, 2^32).
  std::vector<int64_t> permutation(int64_t n);
  // RandomState.choice(n, size, replace=False).
  std::vector<int64_t> choice(int64_t n, int64_t size);

 private:
  std::uint32_t up_to(std::uint32_t most);  // uniform in [0, most], by masks
  void twist();
  std::array<std::uint32_t, 624> state_;
  std::size_t position_ = 624;
};

}  // namespace flowmap::metrics
