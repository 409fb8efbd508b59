// Bytes to resized, normalised floats in one pass over memory. A block makes a tile of
// 32 x 32 output pixels, all channels: it filters the input rows that the tile needs along
// the columns into shared memory, 64 rows at a time, and adds them up along the rows into
// registers. Any shrinking factor fits, as the rows pass through.
//
// Why the tile and not the two passes one after the other through memory: a 32 x 32
// picture to 299 x 299 reads 3 KB and writes 1.07 MB, the floor; an intermediate
// [32, 299, 3] would add 230 KB. From 1024 x 1024 the floor is 3.1 + 1.07 MB, and the
// intermediate would add 7.3 MB (written and read), 1.7 times the floor. The tile pays
// instead with rows filtered twice where tiles meet, taps - 1 of them in each 32 rows of
// output: 3 of 7 rows there (nothing beside the writes), 11 of 120 here. Bytes come
// straight from the cache: neighbouring columns share all but a few of them.
//
// Sums are double: float32 sums of 85 taps (512 to 24) are off by up to 2e-4 grey levels,
// more than the 1e-4 that tells resizers apart. On a card with full-rate double precision
// that costs less than the memory traffic, on others a few per cent of the network behind.
#include "kernels/launch.h"

#include "kernels/arguments.h"

namespace FM_KERNELS_NAMESPACE {
namespace {

constexpr int kTile = 32;         // output rows and columns of a block
constexpr int kResizeThreads = 256;
constexpr int kRowsAtATime = 64;  // filtered input rows in shared memory
constexpr int kThreadRows = kResizeThreads / kTile;   // rows that the threads span
constexpr int kOutputs = kTile / kThreadRows;         // output rows of a thread

template <int kChannels>
__global__ void __launch_bounds__(kResizeThreads, 2)
    resize_normalize_kernel(const std::uint8_t* input, ResizeNormalize resize,
                            std::int64_t tiles_across, std::int64_t tiles_down,
                            float* output) {
  __shared__ float filtered[kChannels][kRowsAtATime][kTile];
  const FilterAxis& rows = resize.rows;
  const FilterAxis& columns = resize.columns;
  const std::int64_t image = blockIdx.x / (tiles_across * tiles_down);
  const std::int64_t tile = blockIdx.x - image * tiles_across * tiles_down;
  const std::int64_t first_row = tile / tiles_across * kTile;
  const std::int64_t last_row =
      first_row + kTile < rows.outputs ? first_row + kTile : rows.outputs;
  const int lane = static_cast<int>(threadIdx.x) % kTile;
  const int thread_row = static_cast<int>(threadIdx.x) / kTile;
  const std::int64_t column = tile % tiles_across * kTile + lane;
  const bool inside = column < columns.outputs;
  const std::int64_t column_first = inside ? columns.first[column] : 0;
  const int column_count = inside ? columns.count[column] : 0;

  // Input rows of the tile; the same loop in every thread.
  std::int64_t first_input = rows.inputs;
  std::int64_t last_input = 0;
  for (std::int64_t y = first_row; y < last_row; ++y) {
    const std::int64_t first = rows.first[y];
    const std::int64_t last = first + rows.count[y];
    first_input = first < first_input ? first : first_input;
    last_input = last > last_input ? last : last_input;
  }
  // Of one picture; a channel's rows lie row_step apart, its columns step.
  const std::int64_t step = resize.channels_last ? kChannels : 1;
  const std::int64_t row_step = columns.inputs * step;
  const std::int64_t channel_step =
      resize.channels_last ? 1 : rows.inputs * columns.inputs;
  const std::uint8_t* in = input + image * kChannels * rows.inputs * columns.inputs;

  double sums[kOutputs][kChannels] = {};
  for (std::int64_t start = first_input; start < last_input; start += kRowsAtATime) {
    const std::int64_t stop =
        start + kRowsAtATime < last_input ? start + kRowsAtATime : last_input;
    for (std::int64_t y = start + thread_row; y < stop; y += kThreadRows) {
      double sum[kChannels] = {};
      const std::uint8_t* at = in + y * row_step + column_first * step;
      for (int k = 0; k < column_count; ++k) {
        const double weight = columns.weights[k * columns.outputs + column];
        for (int c = 0; c < kChannels; ++c) {
          sum[c] += weight * static_cast<double>(static_cast<float>(
                                 at[k * step + c * channel_step]));
        }
      }
      for (int c = 0; c < kChannels; ++c) {
        filtered[c][y - start][lane] = static_cast<float>(sum[c]);
      }
    }
    __syncthreads();
    for (int i = 0; i < kOutputs; ++i) {
      const std::int64_t y = first_row + thread_row + i * kThreadRows;
      if (y < last_row) {
        const std::int64_t first = rows.first[y];
        const std::int64_t last = first + rows.count[y];
        const std::int64_t to = last < stop ? last : stop;
        for (std::int64_t at = first > start ? first : start; at < to; ++at) {
          const double weight = rows.weights[(at - first) * rows.outputs + y];
          for (int c = 0; c < kChannels; ++c) {
            sums[i][c] += weight * static_cast<double>(filtered[c][at - start][lane]);
          }
        }
      }
    }
    __syncthreads();
  }
  if (!inside) {
    return;
  }
  for (int i = 0; i < kOutputs; ++i) {
    const std::int64_t y = first_row + thread_row + i * kThreadRows;
    if (y >= last_row) {
      break;
    }
    for (int c = 0; c < 3; ++c) {
      double value = sums[i][kChannels == 1 ? 0 : c];
      if (resize.clip) {
        value = value < 0.0 ? 0.0 : value;
        value = value > 255.0 ? 255.0 : value;
      }
      output[((image * 3 + c) * rows.outputs + y) * columns.outputs + column] =
          static_cast<float>((value - resize.shift) * resize.scale);
    }
  }
}

}  // namespace

void resize_normalize_cuda(const std::uint8_t* input, const ResizeNormalize& resize,
                           float* output, Stream stream) {
  if (checked_count("resize_normalize_cuda", resize) == 0) {
    return;
  }
  const std::int64_t across = (resize.columns.outputs - 1) / kTile + 1;
  const std::int64_t down = (resize.rows.outputs - 1) / kTile + 1;
  const unsigned blocks = blocks_for(resize.batch * across * down, 1);
  if (resize.channels == 1) {
    FM_LAUNCH(resize_normalize_kernel<1>, blocks, kResizeThreads, 0, stream, input,
              resize, across, down, output);
  } else {
    FM_LAUNCH(resize_normalize_kernel<3>, blocks, kResizeThreads, 0, stream, input,
              resize, across, down, output);
  }
}

}  // namespace FM_KERNELS_NAMESPACE
