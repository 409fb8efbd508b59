// Checks of sizes, the same for every implementation of an entry of api.h.
#pragma once

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "kernels/api.h"

namespace flowmap::kernels {

// The product of sizes; throws std::invalid_argument where one is negative or where
// `bytes` times the product does not fit the address space.
inline std::int64_t checked_count(const char* entry, std::int64_t bytes, std::int64_t a,
                                  std::int64_t b, std::int64_t c = 1) {
  const auto shape = [&] {
    return std::to_string(a) + " x " + std::to_string(b) + " x " + std::to_string(c);
  };
  if (a < 0 || b < 0 || c < 0) {
    throw std::invalid_argument(std::string(entry) + ": negative size in " + shape());
  }
  std::int64_t count = 0;
  if (__builtin_mul_overflow(a, b, &count) || __builtin_mul_overflow(count, c, &count) ||
      count > std::numeric_limits<std::int64_t>::max() / bytes) {
    throw std::invalid_argument(std::string(entry) + ": too many elements in " + shape());
  }
  return count;
}

inline std::int64_t checked_count(const char* entry, const PhiloxRows& rows) {
  return checked_count(entry, sizeof(float), rows.rows, rows.columns);
}

inline std::int64_t checked_count(const char* entry, const GroupNorm& norm) {
  const std::int64_t count =
      checked_count(entry, sizeof(float), norm.batch, norm.channels, norm.spatial);
  if (norm.groups < 1 || norm.channels % norm.groups != 0) {
    throw std::invalid_argument(std::string(entry) + ": " + std::to_string(norm.groups) +
                                " groups do not divide " + std::to_string(norm.channels) +
                                " channels");
  }
  if (norm.modulation_stride != 0 && norm.modulation_stride < norm.channels) {
    throw std::invalid_argument(
        std::string(entry) + ": modulation_stride " +
        std::to_string(norm.modulation_stride) + " is shorter than a row of " +
        std::to_string(norm.channels) + " channels (0 means contiguous rows)");
  }
  if (count > 0 && norm.channels / norm.groups >
                       std::numeric_limits<std::int32_t>::max() / norm.spatial) {
    throw std::invalid_argument(std::string(entry) +
                                ": a group holds more than 2^31 - 1 values; use more "
                                "groups or smaller images");
  }
  return count;
}

}  // namespace flowmap::kernels
