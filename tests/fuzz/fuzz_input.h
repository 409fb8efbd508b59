// What every target does with an error: a file that is no good must be said to be so by
// the error types of base/error.h. Any other exception ends the run as a finding.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "flowmap/base/error.h"

namespace flowmap::fuzz {

inline std::span<const std::byte> as_bytes(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}

inline std::string_view as_text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Calls read(); Expected is the error that its documentation promises.
template <class Expected, class Read>
void expect_only(Read read) {
  try {
    read();
  } catch (const Expected&) {
  }
}

// Whether `text` may name a range of millions of numbers: allowed, but it takes memory.
inline bool names_long_range(std::string_view text) {
  int digits = 0, longest = 0;
  for (const char c : text) {
    digits = c >= '0' && c <= '9' ? digits + 1 : 0;
    longest = digits > longest ? digits : longest;
  }
  return longest >= 6 && text.find('-') != std::string_view::npos;
}

// Ends the process, so that the fuzzer keeps the input.
inline void require(bool condition) {
  if (!condition) __builtin_trap();
}

}  // namespace flowmap::fuzz
