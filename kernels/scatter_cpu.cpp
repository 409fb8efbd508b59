// scatter += rows^T rows, the upper triangle only: half the products of a matrix product.
#include <algorithm>
#include <stdexcept>
#include <string>
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

constexpr std::int64_t kBlock = 16 * kGroup;  // rows of scatter: 192 KB packed

// `depth` rows from `rows`, columns [first, first + kWidth), zeros behind the last.
template <std::int64_t kWidth>
FM_INLINE void pack_columns(const double* rows, std::int64_t depth, std::int64_t stride,
                            std::int64_t first, double* packed) {
  const std::int64_t there = std::min(kWidth, stride - first);
  for (std::int64_t k = 0; k < depth; ++k) {
    const double* from = rows + k * stride + first;
    double* to = packed + k * kWidth;
    if (there == kWidth) {
      for (std::int64_t i = 0; i < kWidth; ++i) {
        to[i] = from[i];
      }
    } else {
      for (std::int64_t i = 0; i < kWidth; ++i) {
        to[i] = i < there ? from[i] : 0.0;
      }
    }
  }
}

FM_CLONES void add_scatter_columns(const double* rows, std::int64_t count,
                                   std::int64_t dimensions, std::int64_t first_column,
                                   std::int64_t last_column, double* x, double* y,
                                   double* scatter) {
  for (std::int64_t k = 0; k < count; k += kDepth) {
    const std::int64_t depth = std::min(kDepth, count - k);
    const double* slice = rows + k * dimensions;
    for (std::int64_t block = 0; block < last_column; block += kBlock) {
      const std::int64_t block_end = std::min(block + kBlock, dimensions);
      for (std::int64_t i = block; i < block_end; i += kGroup) {
        pack_columns<kGroup>(slice, depth, dimensions, i, x + (i - block) * kDepth);
      }
      // kBlock is a multiple of kPanel, so that panels begin on the diagonal's blocks.
      for (std::int64_t j = std::max(first_column, block); j < last_column; j += kPanel) {
        pack_columns<kPanel>(slice, depth, dimensions, j, y);
        const std::int64_t columns = std::min(kPanel, dimensions - j);
        const std::int64_t rows_end = std::min(block_end, j + kPanel);
        for (std::int64_t i = block; i < rows_end; i += kGroup) {
          double sums[kGroup * kPanel] = {};
          vectors::add_tile<false>(x + (i - block) * kDepth, y, depth, sums);
          const std::int64_t group = std::min(kGroup, rows_end - i);
          for (std::int64_t r = 0; r < group; ++r) {
            double* to = scatter + (i + r) * dimensions + j;
            for (std::int64_t c = 0; c < columns; ++c) {
              to[c] += sums[r * kPanel + c];
            }
          }
        }
      }
    }
  }
}

}  // namespace

void add_scatter_cpu(const double* rows, std::int64_t count, std::int64_t dimensions,
                     std::int64_t first_column, std::int64_t last_column,
                     double* scatter) {
  const std::string entry = "add_scatter_cpu";
  checked_count(entry.c_str(), sizeof(double), count, dimensions);
  checked_count(entry.c_str(), sizeof(double), dimensions, dimensions);
  if (first_column < 0 || first_column > last_column || last_column > dimensions ||
      first_column % kPanel != 0 ||
      (last_column % kPanel != 0 && last_column != dimensions)) {
    throw std::invalid_argument(entry + ": columns " + std::to_string(first_column) +
                                " to " + std::to_string(last_column) + " of " +
                                std::to_string(dimensions) +
                                "; splits are multiples of 16");
  }
  if (count == 0 || first_column == last_column) {
    return;
  }
  std::vector<double> x(static_cast<std::size_t>(kBlock * kDepth));
  std::vector<double> y(static_cast<std::size_t>(kPanel * kDepth));
  add_scatter_columns(rows, count, dimensions, first_column, last_column, x.data(),
                      y.data(), scatter);
}

void mirror_scatter_cpu(std::int64_t dimensions, double* scatter) {
  checked_count("mirror_scatter_cpu", sizeof(double), dimensions, dimensions);
  constexpr std::int64_t kSide = 16;  // both squares stay in the cache
  for (std::int64_t i = 0; i < dimensions; i += kSide) {
    const std::int64_t i_end = std::min(i + kSide, dimensions);
    for (std::int64_t j = 0; j <= i; j += kSide) {
      for (std::int64_t r = i; r < i_end; ++r) {
        const std::int64_t end = std::min(j + kSide, r);
        for (std::int64_t c = j; c < end; ++c) {
          scatter[r * dimensions + c] = scatter[c * dimensions + r];
        }
      }
    }
  }
}

}  // namespace flowmap::kernels
