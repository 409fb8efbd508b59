// Philox4x32-10 and the numbers made from its words, for host and device. The layout is
// that of flowmap/base/rng.h, which kernels may not include; tests hold the two together.
// Include after launch.h in device code.
#pragma once

#include <cmath>
#include <cstdint>

#ifndef FM_HOST_DEVICE
#define FM_HOST_DEVICE
#endif

namespace flowmap::kernels {

struct PhiloxWords {
  std::uint32_t word[4];
};

// The SplitMix64 finaliser.
FM_HOST_DEVICE inline std::uint64_t philox_mix64(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Block `block` of one (seed, stream, index). Constants: Salmon et al., SC 2011.
FM_HOST_DEVICE inline PhiloxWords philox_block(std::uint64_t seed,
                                               std::uint64_t stream_id,
                                               std::uint64_t index, std::uint64_t block) {
  const std::uint64_t key = philox_mix64(seed) ^ stream_id;
  auto k0 = static_cast<std::uint32_t>(key);
  auto k1 = static_cast<std::uint32_t>(key >> 32);
  auto c0 = static_cast<std::uint32_t>(block);
  auto c1 = static_cast<std::uint32_t>(block >> 32);
  auto c2 = static_cast<std::uint32_t>(index);
  auto c3 = static_cast<std::uint32_t>(index >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xd2511f53u} * c0;
    const std::uint64_t p1 = std::uint64_t{0xcd9e8d57u} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return {{c0, c1, c2, c3}};
}

// [0, 1) with 24 bits, exact in float.
FM_HOST_DEVICE inline float philox_uniform(std::uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

// Box-Muller in double, radius first: u = (w + 1/2) 2^-32, r = sqrt(-2 ln u1), then
// r cos(2 pi u2) and r sin(2 pi u2). sincospi would be nearer to the truth, but not
// within 1 ulp of the host's rounding of 2 pi u2 where the result is close to 0.
FM_HOST_DEVICE inline void philox_normal_pair(std::uint32_t w1, std::uint32_t w2,
                                              float* first, float* second) {
  constexpr double kTwoPi = 6.283185307179586;
  const double u1 = (static_cast<double>(w1) + 0.5) * 0x1p-32;
  const double u2 = (static_cast<double>(w2) + 0.5) * 0x1p-32;
  const double radius = ::sqrt(-2.0 * ::log(u1));
  const double angle = kTwoPi * u2;
  *first = static_cast<float>(radius * ::cos(angle));
  *second = static_cast<float>(radius * ::sin(angle));
}

}  // namespace flowmap::kernels
