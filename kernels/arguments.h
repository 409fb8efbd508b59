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

// Elements of the output.
inline std::int64_t checked_count(const char* entry, const ResizeNormalize& resize) {
  const FilterAxis& rows = resize.rows;
  const FilterAxis& columns = resize.columns;
  if (resize.channels != 1 && resize.channels != 3) {
    throw std::invalid_argument(std::string(entry) + ": " +
                                std::to_string(resize.channels) +
                                " channels; a picture has 1 or 3");
  }
  checked_count(entry, 1, resize.batch, rows.inputs,
                checked_count(entry, 1, columns.inputs, resize.channels));
  const std::int64_t count =
      checked_count(entry, sizeof(float), resize.batch, rows.outputs,
                    checked_count(entry, 1, columns.outputs, 3));
  for (const FilterAxis* axis : {&rows, &columns}) {
    if (count > 0 && (axis->inputs < 1 || axis->taps < 1 || axis->taps > axis->inputs)) {
      throw std::invalid_argument(
          std::string(entry) + ": a filter of " + std::to_string(axis->taps) +
          " taps over " + std::to_string(axis->inputs) + " inputs");
    }
  }
  return count;
}

// Every window of an axis (host memory) lies inside the input.
inline void check_windows(const char* entry, const FilterAxis& axis) {
  for (std::int64_t i = 0; i < axis.outputs; ++i) {
    const std::int64_t first = axis.first[i];
    const std::int64_t count = axis.count[i];
    if (first < 0 || count < 1 || count > axis.taps || first + count > axis.inputs) {
      throw std::invalid_argument(
          std::string(entry) + ": output " + std::to_string(i) + " takes " +
          std::to_string(count) + " inputs from " + std::to_string(first) + " of " +
          std::to_string(axis.inputs) + " (at most " + std::to_string(axis.taps) + ")");
    }
  }
}

// Pairs.
inline std::int64_t checked_count(const char* entry, const RowPairs& pairs) {
  checked_count(entry, sizeof(double), pairs.x_rows, pairs.dimensions);
  checked_count(entry, sizeof(double), pairs.y_rows, pairs.dimensions);
  if (pairs.dimensions == 0) {
    throw std::invalid_argument(std::string(entry) + ": rows of 0 dimensions");
  }
  return checked_count(entry, sizeof(double), pairs.x_rows, pairs.y_rows);
}

inline void check_radii(const char* entry, const double* x_radii, const double* y_radii) {
  if ((x_radii == nullptr) == (y_radii == nullptr)) {
    throw std::invalid_argument(std::string(entry) +
                                ": give the radii of x or those of y, one of the two");
  }
}

}  // namespace flowmap::kernels
