// All pairs of rows, by tiles of 6 x 16. Each sum is one chain over the dimensions in
// order, and every pair goes through the same instructions (tails are padded), which is
// what makes ties exact. A matrix product |x|^2 + |y|^2 - 2xy would not be: a BLAS sums the
// edge of a matrix in another order than its middle, and the difference cancels.
#include <algorithm>
#include <vector>

#include "kernels/api.h"
#include "kernels/arguments.h"
#include "kernels/tile.h"
#include "kernels/vectors.h"

namespace flowmap::kernels {
namespace {

using vectors::kDepth;
using vectors::kGroup;
using vectors::kPanel;


// Rows [first, first + kWidth) of [count, dimensions] as [dimensions, kWidth], zeros
// behind the last.
template <std::int64_t kWidth>
void pack(const float* rows, std::int64_t first, std::int64_t count,
          std::int64_t dimensions, double* packed) {
  for (std::int64_t r = 0; r < kWidth; ++r) {
    const float* from = rows + (first + r) * dimensions;
    const bool there = first + r < count;
    for (std::int64_t k = 0; k < dimensions; ++k) {
      packed[k * kWidth + r] = there ? static_cast<double>(from[k]) : 0.0;
    }
  }
}

FM_CLONES void add_distances(const double* x, const double* y, std::int64_t depth,
                             double* sums) {
  vectors::add_tile<true>(x, y, depth, sums);
}

FM_CLONES void add_pair_products(const double* x, const double* y, std::int64_t depth,
                            double* sums) {
  vectors::add_tile<false>(x, y, depth, sums);
}

// finish(i, j, sum) for all pairs, the j of an i in rising order. Blocks as in a matrix
// product: 256 rows of y packed once (third cache) for all of x, 96 rows of x by kDepth
// dimensions (second cache), a panel of y by kDepth (first cache).
template <bool kDistance, typename Finish>
void for_all_pairs(const RowPairs& pairs, Finish finish) {
  constexpr std::int64_t kColumns = 16 * kPanel;
  constexpr std::int64_t kRows = 16 * kGroup;
  const std::int64_t d = pairs.dimensions;
  std::vector<double> y(static_cast<std::size_t>(kColumns * d));
  std::vector<double> x(static_cast<std::size_t>(kRows * d));
  std::vector<double> sums(static_cast<std::size_t>(kRows * kColumns));
  for (std::int64_t j = 0; j < pairs.y_rows; j += kColumns) {
    const std::int64_t columns = std::min(kColumns, pairs.y_rows - j);
    for (std::int64_t p = 0; p < columns; p += kPanel) {
      pack<kPanel>(pairs.y, j + p, pairs.y_rows, d, y.data() + p * d);
    }
    for (std::int64_t i = 0; i < pairs.x_rows; i += kRows) {
      const std::int64_t rows = std::min(kRows, pairs.x_rows - i);
      for (std::int64_t g = 0; g < rows; g += kGroup) {
        pack<kGroup>(pairs.x, i + g, pairs.x_rows, d, x.data() + g * d);
      }
      std::fill(sums.begin(), sums.end(), 0.0);
      for (std::int64_t k = 0; k < d; k += kDepth) {
        const std::int64_t depth = std::min(kDepth, d - k);
        for (std::int64_t p = 0; p < columns; p += kPanel) {
          for (std::int64_t g = 0; g < rows; g += kGroup) {
            (kDistance ? add_distances : add_pair_products)(
                x.data() + g * d + k * kGroup, y.data() + p * d + k * kPanel, depth,
                sums.data() + p * kRows + g * kPanel);
          }
        }
      }
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < columns; ++c) {
          finish(i + r, j + c,
                 sums[static_cast<std::size_t>(c / kPanel * kPanel * kRows + r * kPanel +
                                               c % kPanel)]);
        }
      }
    }
  }
}

}  // namespace

void squared_distances_cpu(const RowPairs& pairs, double* output) {
  checked_count("squared_distances_cpu", pairs);
  for_all_pairs<true>(pairs, [&](std::int64_t i, std::int64_t j, double distance) {
    output[i * pairs.y_rows + j] = distance;
  });
}

void count_within_cpu(const RowPairs& pairs, const double* x_radii, const double* y_radii,
                      bool inclusive, std::int64_t* output) {
  if (checked_count("count_within_cpu", pairs) > 0) {
    check_radii("count_within_cpu", x_radii, y_radii);
  }
  std::fill(output, output + pairs.x_rows, std::int64_t{0});
  for_all_pairs<true>(pairs, [&](std::int64_t i, std::int64_t j, double distance) {
    const double radius = x_radii ? x_radii[i] : y_radii[j];
    output[i] += inclusive ? distance <= radius : distance < radius;
  });
}

void polynomial_sums_cpu(const RowPairs& pairs, std::int64_t skip, double* output) {
  checked_count("polynomial_sums_cpu", pairs);
  std::fill(output, output + pairs.x_rows, 0.0);
  const double dimensions = static_cast<double>(pairs.dimensions);
  for_all_pairs<false>(pairs, [&](std::int64_t i, std::int64_t j, double product) {
    const double term = product / dimensions + 1.0;
    output[i] += j - i == skip ? 0.0 : term * term * term;
  });
}

}  // namespace flowmap::kernels
