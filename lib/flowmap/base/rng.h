// Counter-based randomness: a number is a function of (seed, stream, index, position).
//
// Generator: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011; the Random123 library). Key and counter are laid out as
//   key     = mix64(seed) xor stream_id                       (low word first)
//   counter = { block & 2^32-1, block >> 32, index & 2^32-1, index >> 32 }
// with stream_id = FNV-1a-64 of the stream's name, mix64 = the SplitMix64 finaliser.
// Block k yields the four 32-bit words that positions 4k .. 4k+3 are made from.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace flowmap {

using PhiloxBlock = std::array<std::uint32_t, 4>;

// The raw generator with any number of rounds (10 is used; 7 has known answers too).
PhiloxBlock philox4x32(PhiloxBlock counter, std::array<std::uint32_t, 2> key,
                       int rounds = 10);

std::uint64_t mix64(std::uint64_t value);
std::uint64_t stream_id(std::string_view stream);
std::array<std::uint32_t, 2> philox_key(std::uint64_t seed, std::uint64_t stream);

// Uniform in [0, 1) with 24 bits: (word >> 8) * 2^-24. The same on every device.
float uniform_from_word(std::uint32_t word);

// Two normals from two words by Box-Muller, in double, then rounded to float. Words w1
// and w2 are the lower and the higher of their pair in the block ("radius first"):
//   u = (w + 1/2) * 2^-32 in (0, 1), r = sqrt(-2 ln u1),
//   n1 = r cos(2 pi u2), n2 = r sin(2 pi u2).
// |n| stays below 6.77. CPU and GPU agree within 1 ulp of float (double libraries differ
// in the last bits).
std::array<float, 2> normals_from_words(std::uint32_t w1, std::uint32_t w2);

// Positions 0 .. out.size()-1 of one (seed, stream, index). Normals: words 4k, 4k+1 make
// positions 4k, 4k+1; words 4k+2, 4k+3 make the other two.
void philox_normals(std::uint64_t seed, std::uint64_t stream, std::uint64_t index,
                    std::span<float> out);
void philox_uniforms(std::uint64_t seed, std::uint64_t stream, std::uint64_t index,
                     std::span<float> out);
void philox_words(std::uint64_t seed, std::uint64_t stream, std::uint64_t index,
                  std::span<std::uint32_t> out);

}  // namespace flowmap
