#include "flowmap/base/rng.h"

#include <cmath>
#include <cstddef>
#include <numbers>

namespace flowmap {
namespace {

// Multipliers and Weyl increments of Philox4x32 (Salmon et al. 2011, section 5.3).
constexpr std::uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u;
constexpr std::uint32_t kPhiloxW0 = 0x9E3779B9u, kPhiloxW1 = 0xBB67AE85u;

inline PhiloxBlock philox_rounds(PhiloxBlock c, std::uint32_t k0, std::uint32_t k1,
                                 int rounds) {
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{kPhiloxM0} * c[0];
    const std::uint64_t p1 = std::uint64_t{kPhiloxM1} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1,
         static_cast<std::uint32_t>(p0)};
    k0 += kPhiloxW0;
    k1 += kPhiloxW1;
  }
  return c;
}

// Fills `out` from the blocks 0, 1, ... of one (seed, stream, index); `convert` turns a
// block into its four values. The last block may be used in part.
template <class T, class Convert>
void philox_fill(std::uint64_t seed, std::uint64_t stream, std::uint64_t index,
                 std::span<T> out, Convert convert) {
  const auto key = philox_key(seed, stream);
  const auto block = [&](std::uint64_t k) -> std::array<T, 4> {
    return convert(philox_rounds(
        {static_cast<std::uint32_t>(k), static_cast<std::uint32_t>(k >> 32),
         static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32)},
        key[0], key[1], 10));
  };
  const std::size_t whole = out.size() / 4;
  T* to = out.data();
  for (std::size_t k = 0; k < whole; ++k, to += 4) {
    const auto values = block(k);
    for (int j = 0; j < 4; ++j) to[j] = values[j];
  }
  if (const std::size_t rest = out.size() % 4) {
    const auto values = block(whole);
    for (std::size_t j = 0; j < rest; ++j) to[j] = values[j];
  }
}

}  // namespace

PhiloxBlock philox4x32(PhiloxBlock counter, std::array<std::uint32_t, 2> key,
                       int rounds) {
  return philox_rounds(counter, key[0], key[1], rounds);
}

std::uint64_t mix64(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
  return value ^ (value >> 31);
}

std::uint64_t stream_id(std::string_view stream) {
  std::uint64_t hash = 0xCBF29CE484222325ull;
  for (const char letter : stream) {
    hash ^= static_cast<unsigned char>(letter);
    hash *= 0x100000001B3ull;
  }
  return hash;
}

std::array<std::uint32_t, 2> philox_key(std::uint64_t seed, std::uint64_t stream) {
  const std::uint64_t key = mix64(seed) ^ stream;
  return {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
}

float uniform_from_word(std::uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

std::array<float, 2> normals_from_words(std::uint32_t w1, std::uint32_t w2) {
  const double u1 = (w1 + 0.5) * 0x1p-32;
  const double u2 = (w2 + 0.5) * 0x1p-32;
  const double radius = std::sqrt(-2.0 * std::log(u1));
  const double angle = 2.0 * std::numbers::pi * u2;
  return {static_cast<float>(radius * std::cos(angle)),
          static_cast<float>(radius * std::sin(angle))};
}

void philox_normals(std::uint64_t seed, std::uint64_t stream, std::uint64_t index,
                    std::span<float> out) {
  philox_fill(seed, stream, index, out, [](const PhiloxBlock& w) {
    const auto [a, b] = normals_from_words(w[0], w[1]);
    const auto [c, d] = normals_from_words(w[2], w[3]);
    return std::array<float, 4>{a, b, c, d};
  });
}

void philox_uniforms(std::uint64_t seed, std::uint64_t stream, std::uint64_t index,
                     std::span<float> out) {
  philox_fill(seed, stream, index, out, [](const PhiloxBlock& w) {
    return std::array<float, 4>{uniform_from_word(w[0]), uniform_from_word(w[1]),
                                uniform_from_word(w[2]), uniform_from_word(w[3])};
  });
}

void philox_words(std::uint64_t seed, std::uint64_t stream, std::uint64_t index,
                  std::span<std::uint32_t> out) {
  philox_fill(seed, stream, index, out, [](const PhiloxBlock& w) { return w; });
}

}  // namespace flowmap
