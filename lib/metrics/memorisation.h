// Are generated samples copies of the training set? The reference must be the training set
// itself, whole, and not another split.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace flowmap::metrics {

struct Memorisation {
  // Share of generated rows farther from their nearest reference row x than x is from its
  // own nearest other row: authenticity (Alaa et al. 2022, arXiv 2102.08921, section 3.3).
  // A perfect model draws about one half; copies draw it to 0.
  double authenticity = 0;
  // Share of generated rows whose nearest reference row is less than a third as far as
  // the second nearest, or equal to it (Yoon et al. 2023; Gu et al. 2023, arXiv 2310.02664,
  // section 2).
  double memorised = 0;
  // Median of (distance to the nearest reference row x) / (x's own distance to its nearest
  // other row); infinite where most of those x have an exact copy in the reference.
  double median_ratio = 0;
};

// reference, generated: float [m, d], [n, d], m >= 2, n >= 1.
Memorisation memorisation(const at::Tensor& reference, const at::Tensor& generated);

struct ClosePair {
  int64_t generated = 0, reference = 0;  // rows
  double distance = 0;
};

// The `count` (or all, if fewer) generated rows that lie closest to the reference, each
// with its nearest reference row, closest first.
std::vector<ClosePair> closest_pairs(const at::Tensor& reference,
                                     const at::Tensor& generated, int64_t count);

}  // namespace flowmap::metrics
