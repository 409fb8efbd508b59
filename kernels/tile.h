// The inner loop of the _cpu entries over pairs of vectors: 16 of them stand in two vector
// registers, 6 are broadcast: twelve sums run side by side, each one chain in order.
#pragma once

#include "kernels/vectors.h"

namespace flowmap::kernels::vectors {

constexpr std::int64_t kPanel = 2 * kLanes;
constexpr std::int64_t kGroup = 6;
constexpr std::int64_t kDepth = 256;  // a panel of 32 KB, in the first cache

// x [depth, kGroup], y [depth, kPanel]; sums [kGroup, kPanel] += squared differences or
// products, over the depth.
template <bool kDistance>
FM_INLINE void add_tile(const double* x, const double* y, std::int64_t depth,
                        double* sums) {
  Doubles sum[kGroup][2];
  for (int i = 0; i < kGroup; ++i) {
    sum[i][0] = load<Doubles>(sums + i * kPanel);
    sum[i][1] = load<Doubles>(sums + i * kPanel + kLanes);
  }
  for (std::int64_t k = 0; k < depth; ++k) {
    const Doubles left = load<Doubles>(y + k * kPanel);
    const Doubles right = load<Doubles>(y + k * kPanel + kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kGroup; ++i) {
      const double value = x[k * kGroup + i];
      if constexpr (kDistance) {
        const Doubles a = left - value;
        const Doubles b = right - value;
        sum[i][0] += a * a;
        sum[i][1] += b * b;
      } else {
        sum[i][0] += left * value;
        sum[i][1] += right * value;
      }
    }
  }
  for (int i = 0; i < kGroup; ++i) {
    store(sums + i * kPanel, sum[i][0]);
    store(sums + i * kPanel + kLanes, sum[i][1]);
  }
}

}  // namespace flowmap::kernels::vectors
