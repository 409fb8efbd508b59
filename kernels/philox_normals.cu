// Philox normals and uniforms: one thread makes the four numbers of one Philox block.
#include "kernels/launch.h"

#include "kernels/arguments.h"
#include "kernels/philox.h"

namespace FM_KERNELS_NAMESPACE {
namespace {

constexpr int kPhiloxThreads = 128;

template <bool kNormal>
__global__ void __launch_bounds__(kPhiloxThreads)
    philox_kernel(PhiloxRows rows, std::int64_t blocks_per_row, float* output) {
  const std::int64_t item =
      std::int64_t{blockIdx.x} * kPhiloxThreads + static_cast<int>(threadIdx.x);
  if (item >= rows.rows * blocks_per_row) {
    return;
  }
  const std::int64_t row = item / blocks_per_row;
  const std::int64_t block = item - row * blocks_per_row;
  const PhiloxWords words =
      philox_block(rows.seeds[row], rows.stream_id, rows.indices[row],
                   static_cast<std::uint64_t>(block));
  float values[4];
  if constexpr (kNormal) {
    philox_normal_pair(words.word[0], words.word[1], &values[0], &values[1]);
    philox_normal_pair(words.word[2], words.word[3], &values[2], &values[3]);
  } else {
    for (int i = 0; i < 4; ++i) {
      values[i] = philox_uniform(words.word[i]);
    }
  }
  const std::int64_t column = block * 4;
  float* out = output + row * rows.columns + column;
  const std::int64_t left = rows.columns - column;
  for (int i = 0; i < 4; ++i) {
    if (i < left) {
      out[i] = values[i];
    }
  }
}

template <bool kNormal>
void launch_philox(const char* entry, const PhiloxRows& rows, float* output,
                   Stream stream) {
  if (checked_count(entry, rows) == 0) {
    return;
  }
  const std::int64_t blocks_per_row = (rows.columns - 1) / 4 + 1;
  FM_LAUNCH(philox_kernel<kNormal>,
            blocks_for(rows.rows * blocks_per_row, kPhiloxThreads), kPhiloxThreads, 0,
            stream, rows, blocks_per_row, output);
}

}  // namespace

void philox_normals_cuda(const PhiloxRows& rows, float* output, Stream stream) {
  launch_philox<true>("philox_normals_cuda", rows, output, stream);
}

void philox_uniforms_cuda(const PhiloxRows& rows, float* output, Stream stream) {
  launch_philox<false>("philox_uniforms_cuda", rows, output, stream);
}

}  // namespace FM_KERNELS_NAMESPACE
