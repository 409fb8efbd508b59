#include "metrics/numpy_random.h"

#include <numeric>
#include <utility>

#include "flowmap/base/error.h"

namespace flowmap::metrics {

NumpyRandom::NumpyRandom(std::uint32_t seed) {
  for (std::uint32_t i = 0; i < state_.size(); ++i) {
    state_[i] = seed;
    seed = 1812433253u * (seed ^ (seed >> 30)) + i + 1;
  }
}

void NumpyRandom::twist() {
  constexpr std::size_t kSize = 624, kShift = 397;
  for (std::size_t i = 0; i < kSize; ++i) {
    const std::uint32_t y =
        (state_[i] & 0x80000000u) | (state_[(i + 1) % kSize] & 0x7fffffffu);
    state_[i] = state_[(i + kShift) % kSize] ^ (y >> 1) ^ ((y & 1u) * 0x9908b0dfu);
  }
  position_ = 0;
}

std::uint32_t NumpyRandom::next() {
  if (position_ == state_.size()) twist();
  std::uint32_t y = state_[position_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

std::uint32_t NumpyRandom::up_to(std::uint32_t most) {
  if (most == 0) return 0;
  std::uint32_t mask = most;
  for (int shift = 1; shift < 32; shift *= 2) mask |= mask >> shift;
  std::uint32_t value = next() & mask;
  while (value > most) value = next() & mask;
  return value;
}

std::vector<int64_t> NumpyRandom::permutation(int64_t n) {
  FM_CHECK(n >= 0 && n < int64_t{1} << 32, "permutation of ", n, " numbers");
  std::vector<int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i-- > 1;)
    std::swap(order[i], order[up_to(static_cast<std::uint32_t>(i))]);
  return order;
}

std::vector<int64_t> NumpyRandom::choice(int64_t n, int64_t size) {
  FM_CHECK(size >= 0 && size <= n, "choice of ", size, " out of ", n,
           " without replacement");
  std::vector<int64_t> order = permutation(n);
  order.resize(static_cast<std::size_t>(size));
  return order;
}

}  // namespace flowmap::metrics
