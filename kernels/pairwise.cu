// All pairs of rows in double, a block 64 rows of x against all of y (or one 64 x 64 tile
// where the distances are written out); a thread holds 4 x 4 sums. Counts and polynomial
// sums never write the pairs to memory.
//
// Each sum is one chain over the dimensions in order, with the same instructions for every
// pair (tails are padded with zeros): that is what makes ties exact, and what a matrix
// product |x|^2 + |y|^2 - 2xy does not give. Cost: 2 double instructions a pair and
// dimension for distances, 1 for products; 10,000 x 10,000 rows of 2048 on an H100
// (1.7e13 such instructions a second) are 24 ms and 12 ms at best. cuBLAS has the tensor
// cores, 67 TFLOPS of products: with the tile written and read back three times, 61 + 15
// ps a pair at 2048 dimensions against 120 here, but 2 + 15 against 4 at 64: the product
// wins above about 250 dimensions, where its rounding is allowed, that is for KID.
#include "kernels/launch.h"

#include <type_traits>

#include "kernels/arguments.h"

namespace FM_KERNELS_NAMESPACE {
namespace {

constexpr int kSide = 64;          // rows of x, and of y, in a tile
constexpr int kPairThreads = 256;  // 16 x 16, a 4 x 4 corner each
constexpr int kSlice = 16;         // dimensions in shared memory at a time

// What is asked about the pairs.
struct Distances {
  using Output = double;
};
struct Within {
  using Output = std::int64_t;
};
struct Polynomial {
  using Output = double;
};
template <typename Question, typename Other>
constexpr bool kIs = std::is_same_v<Question, Other>;

struct PairOptions {
  const double* x_radii = nullptr;
  const double* y_radii = nullptr;
  bool inclusive = false;
  std::int64_t skip = 0;
};

// Rows [first, first + kSide) and dimensions [k, k + kSlice) as [kSlice][kSide + 1],
// zeros outside. A warp reads two runs of 16 floats.
__device__ __forceinline__ void load_slice(const float* rows, std::int64_t first,
                                           std::int64_t count, std::int64_t dimensions,
                                           std::int64_t k,
                                           double (&slice)[kSlice][kSide + 1]) {
  for (int i = static_cast<int>(threadIdx.x); i < kSide * kSlice; i += kPairThreads) {
    const int row = i / kSlice;
    const int at = i % kSlice;
    const bool there = first + row < count && k + at < dimensions;
    slice[at][row] =
        there ? static_cast<double>(rows[(first + row) * dimensions + k + at]) : 0.0;
  }
}

template <typename Question>
__global__ void __launch_bounds__(kPairThreads, 2)
    pairwise_kernel(RowPairs pairs, PairOptions options, std::int64_t tiles_across,
                    typename Question::Output* output) {
  __shared__ double x_slice[kSlice][kSide + 1];
  __shared__ double y_slice[kSlice][kSide + 1];
  // Thread (r, c) holds rows r + 16 i of x and c + 16 j of y.
  const int thread_row = static_cast<int>(threadIdx.x) / 16;
  const int thread_column = static_cast<int>(threadIdx.x) % 16;
  constexpr bool kWrite = kIs<Question, Distances>;
  const std::int64_t tile_row = kWrite ? blockIdx.x / tiles_across : blockIdx.x;
  const std::int64_t x_first = tile_row * kSide;
  const std::int64_t first_tile = kWrite ? blockIdx.x - tile_row * tiles_across : 0;
  const std::int64_t last_tile = kWrite ? first_tile + 1 : tiles_across;

  typename Question::Output of_row[4] = {};
  for (std::int64_t tile = first_tile; tile < last_tile; ++tile) {
    const std::int64_t y_first = tile * kSide;
    double sum[4][4] = {};
    for (std::int64_t k = 0; k < pairs.dimensions; k += kSlice) {
      load_slice(pairs.x, x_first, pairs.x_rows, pairs.dimensions, k, x_slice);
      load_slice(pairs.y, y_first, pairs.y_rows, pairs.dimensions, k, y_slice);
      __syncthreads();
      for (int at = 0; at < kSlice; ++at) {
        double x[4];
        double y[4];
        for (int i = 0; i < 4; ++i) {
          x[i] = x_slice[at][thread_row + 16 * i];
          y[i] = y_slice[at][thread_column + 16 * i];
        }
        for (int i = 0; i < 4; ++i) {
          for (int j = 0; j < 4; ++j) {
            if constexpr (kIs<Question, Polynomial>) {
              sum[i][j] = fma(x[i], y[j], sum[i][j]);
            } else {
              const double difference = x[i] - y[j];
              sum[i][j] = fma(difference, difference, sum[i][j]);
            }
          }
        }
      }
      __syncthreads();
    }
    for (int i = 0; i < 4; ++i) {
      const std::int64_t row = x_first + thread_row + 16 * i;
      for (int j = 0; j < 4; ++j) {
        const std::int64_t column = y_first + thread_column + 16 * j;
        if (row >= pairs.x_rows || column >= pairs.y_rows) {
          continue;
        }
        if constexpr (kWrite) {
          output[row * pairs.y_rows + column] = sum[i][j];
        } else if constexpr (kIs<Question, Within>) {
          const double radius =
              options.x_radii ? options.x_radii[row] : options.y_radii[column];
          of_row[i] += options.inclusive ? sum[i][j] <= radius : sum[i][j] < radius;
        } else if (column - row != options.skip) {
          const double term = sum[i][j] / static_cast<double>(pairs.dimensions) + 1.0;
          of_row[i] += term * term * term;
        }
      }
    }
  }
  if constexpr (!kWrite) {
    // The 16 threads of a row are half a warp.
    for (int i = 0; i < 4; ++i) {
      for (int offset = 8; offset > 0; offset /= 2) {
        of_row[i] += __shfl_xor_sync(0xffffffffu, of_row[i], offset);
      }
      const std::int64_t row = x_first + thread_row + 16 * i;
      if (thread_column == 0 && row < pairs.x_rows) {
        output[row] = of_row[i];
      }
    }
  }
}

template <typename Question>
void launch_pairs(const RowPairs& pairs, const PairOptions& options,
                  typename Question::Output* output, Stream stream) {
  const std::int64_t across = (pairs.y_rows + kSide - 1) / kSide;
  const std::int64_t down = (pairs.x_rows + kSide - 1) / kSide;
  const std::int64_t blocks = kIs<Question, Distances> ? across * down : down;
  if (blocks > 0) {
    FM_LAUNCH(pairwise_kernel<Question>, blocks_for(blocks, 1), kPairThreads, 0, stream,
              pairs, options, across, output);
  }
}

}  // namespace

void squared_distances_cuda(const RowPairs& pairs, double* output, Stream stream) {
  checked_count("squared_distances_cuda", pairs);
  launch_pairs<Distances>(pairs, {}, output, stream);
}

void count_within_cuda(const RowPairs& pairs, const double* x_radii,
                       const double* y_radii, bool inclusive, std::int64_t* output,
                       Stream stream) {
  if (checked_count("count_within_cuda", pairs) > 0) {
    check_radii("count_within_cuda", x_radii, y_radii);
  }
  PairOptions options;
  options.x_radii = x_radii;
  options.y_radii = y_radii;
  options.inclusive = inclusive;
  launch_pairs<Within>(pairs, options, output, stream);
}

void polynomial_sums_cuda(const RowPairs& pairs, std::int64_t skip, double* output,
                          Stream stream) {
  checked_count("polynomial_sums_cuda", pairs);
  PairOptions options;
  options.skip = skip;
  launch_pairs<Polynomial>(pairs, options, output, stream);
}

}  // namespace FM_KERNELS_NAMESPACE
