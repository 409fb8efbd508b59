// What the tests of all kernels share: buffers that AddressSanitizer can watch, ulp
// distances, and both thread orders of the emulation.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "kernels/emulation.h"

namespace flowmap::testing {

// A host array of exactly `values`, `offset` elements behind a 16-byte boundary; one
// element past its end is outside the allocation.
template <typename T>
class HostArray {
 public:
  explicit HostArray(const std::vector<T>& values, std::size_t offset = 0)
      : offset_(offset), size_(values.size()), all_(new T[offset + values.size()]()) {
    for (std::size_t i = 0; i < size_; ++i) {
      all_[offset + i] = values[i];
    }
  }

  T* data() { return all_.get() + offset_; }
  const T* data() const { return all_.get() + offset_; }
  std::vector<T> values() const { return {data(), data() + size_}; }

 private:
  std::size_t offset_;
  std::size_t size_;
  std::unique_ptr<T[]> all_;
};

// Steps between neighbouring floats from a to b; 0 for two NaNs, huge for one.
inline std::int64_t ulp_distance(float a, float b) {
  if (a != a || b != b) {
    return (a != a) == (b != b) ? 0 : INT64_MAX;
  }
  const auto place = [](float value) -> std::int64_t {
    const auto bits = std::bit_cast<std::int32_t>(value);
    return bits < 0 ? -static_cast<std::int64_t>(bits & 0x7fffffff) : bits;
  };
  return std::llabs(place(a) - place(b));
}

// Runs `body` once with the emulated threads and blocks in order, once in reverse.
template <typename Body>
void in_both_orders(Body body) {
  using kernels::emulation::Order;
  for (const Order order : {Order::forward, Order::reverse}) {
    SCOPED_TRACE(order == Order::forward ? "threads in order" : "threads in reverse");
    kernels::emulation::order = order;
    body();
  }
  kernels::emulation::order = Order::forward;
}

// Values without structure, the same everywhere: a 64-bit congruential generator.
inline std::vector<float> scattered(std::size_t count, float low, float high) {
  std::vector<float> values(count);
  std::uint64_t state = 0x2545f4914f6cdd1du + count;
  for (float& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = low + (high - low) * static_cast<float>(state >> 40) * 0x1p-24f;
  }
  return values;
}

}  // namespace flowmap::testing
