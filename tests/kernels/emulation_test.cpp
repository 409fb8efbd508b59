// The emulation itself: that it runs barriers, shuffles and blocks as CUDA defines them,
// and reports what CUDA leaves undefined.
#include "kernels/emulation.h"

#include "kernels/launch.h"
#include "tests/kernels/kernel_test.h"

namespace {

using flowmap::testing::in_both_orders;

void expect_failure(const std::function<void()>& launch, const std::string& part) {
  try {
    launch();
    FAIL() << "no exception; expected '" << part << "'";
  } catch (const std::logic_error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

__global__ void number_threads(int* seen) {
  const unsigned block =
      blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread =
      threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  ++seen[block * (blockDim.x * blockDim.y * blockDim.z) + thread];
}

TEST(Emulation, VisitsEveryThreadOnce) {
  in_both_orders([] {
    std::vector<int> seen(2 * 3 * 4 * 5 * 6 * 7);
    FM_LAUNCH(number_threads, dim3(2, 3, 4), dim3(5, 6, 7), 0, nullptr, seen.data());
    EXPECT_EQ(seen, std::vector<int>(seen.size(), 1));
  });
}

// Reverses an array in shared memory, twice: wrong without either barrier.
__global__ void reverse_twice(const int* input, int* output) {
  __shared__ int first[64];
  __shared__ int second[64];
  const unsigned i = threadIdx.x;
  first[i] = input[blockIdx.x * 64 + i];
  __syncthreads();
  second[i] = first[63 - i] + 1;
  __syncthreads();
  output[blockIdx.x * 64 + i] = second[63 - i];
}

TEST(Emulation, BarriersSeparatePhases) {
  in_both_orders([] {
    std::vector<int> input(128), output(128), want(128);
    for (int i = 0; i < 128; ++i) {
      input[static_cast<std::size_t>(i)] = i * i;
      want[static_cast<std::size_t>(i)] = i * i + 1;
    }
    FM_LAUNCH(reverse_twice, 2, 64, 0, nullptr, input.data(), output.data());
    EXPECT_EQ(output, want);
  });
}

// What a missing barrier gives depends on the order, which is how tests notice.
__global__ void reverse_without_barrier(int* output) {
  __shared__ int shared[32];
  shared[threadIdx.x] = 0;
  __syncthreads();
  shared[threadIdx.x] = static_cast<int>(threadIdx.x) + 1;
  output[threadIdx.x] = shared[31 - threadIdx.x];
}

TEST(Emulation, OrderRevealsAMissingBarrier) {
  std::vector<std::vector<int>> outputs;
  in_both_orders([&] {
    outputs.emplace_back(32);
    FM_LAUNCH(reverse_without_barrier, 1, 32, 0, nullptr, outputs.back().data());
  });
  EXPECT_NE(outputs[0], outputs[1]);
}

template <typename T>
__global__ void add_neighbours(T* values, int distance) {
  const T mine = values[threadIdx.x];
  values[threadIdx.x] = mine + __shfl_xor_sync(0xffffffffu, mine, distance);
}

template <typename T>
void check_shuffle() {
  in_both_orders([] {
    for (int distance = 1; distance < 32; distance *= 2) {
      std::vector<T> values(96);
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = static_cast<T>(i * i) + static_cast<T>(0.25);
      }
      const std::vector<T> before = values;
      FM_LAUNCH(add_neighbours<T>, 1, 96, 0, nullptr, values.data(), distance);
      for (std::size_t i = 0; i < values.size(); ++i) {
        EXPECT_EQ(values[i],
                  before[i] + before[i ^ static_cast<std::size_t>(distance)]);
      }
    }
  });
}

TEST(Emulation, ShufflesExchangeWithinAWarp) {
  check_shuffle<int>();
  check_shuffle<float>();
  check_shuffle<double>();
}

// Half a warp may shuffle by itself, several times, while the other half does not.
__global__ void half_warp_sum(int* values) {
  if (threadIdx.x < 16) {
    int sum = values[threadIdx.x];
    for (int distance = 8; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0x0000ffffu, sum, distance);
    }
    values[threadIdx.x] = sum;
  }
  __syncthreads();
}

TEST(Emulation, ShufflesUnderAMask) {
  in_both_orders([] {
    std::vector<int> values(32, 3);
    FM_LAUNCH(half_warp_sum, 1, 32, 0, nullptr, values.data());
    EXPECT_EQ(values[0], 48);
    EXPECT_EQ(values[15], 48);
    EXPECT_EQ(values[16], 3);
  });
}

__global__ void barrier_for_half() {
  if (threadIdx.x < 16) {
    __syncthreads();
  }
}
__global__ void shuffle_beside_barrier() {
  if (threadIdx.x < 16) {
    __syncthreads();
  } else {
    __shfl_xor_sync(0xffffffffu, 1, 1);
  }
}
__global__ void shuffle_outside_mask() { __shfl_xor_sync(0x0000ffffu, 1, 1); }
__global__ void shuffle_from_outside() {
  if (threadIdx.x < 16) {
    __shfl_xor_sync(0x0000ffffu, 1, 16);
  }
}
__global__ void shuffle_whole_warp() { __shfl_xor_sync(0xffffffffu, 1, 1); }

TEST(Emulation, ReportsWhatCudaLeavesUndefined) {
  in_both_orders([] {
    expect_failure([] { FM_LAUNCH(barrier_for_half, 1, 32, 0, nullptr); },
                   "barrier_for_half, block (0,0,0): of 32 threads 16 have returned");
    expect_failure([] { FM_LAUNCH(shuffle_beside_barrier, 1, 32, 0, nullptr); },
                   "not all reach the barrier");
    expect_failure([] { FM_LAUNCH(shuffle_outside_mask, 1, 32, 0, nullptr); },
                   "outside its own shuffle mask");
    expect_failure([] { FM_LAUNCH(shuffle_from_outside, 1, 32, 0, nullptr); },
                   "outside the mask");
    expect_failure([] { FM_LAUNCH(shuffle_whole_warp, 1, 31, 0, nullptr); },
                   "lane 31, which the block does not have");
    expect_failure([] { FM_LAUNCH(shuffle_whole_warp, 0, 32, 0, nullptr); },
                   "launch of 0 blocks");
    expect_failure([] { FM_LAUNCH(shuffle_whole_warp, 1, 1056, 0, nullptr); },
                   "blocks of 1056 threads");
    expect_failure([] { FM_LAUNCH(shuffle_whole_warp, 1, 32, 16, nullptr); },
                   "shared memory sized at the launch");
    // A failed launch leaves the next one alone.
    FM_LAUNCH(shuffle_whole_warp, 1, 32, 0, nullptr);
  });
}

TEST(Emulation, GridsTooLargeAreRefused) {
  EXPECT_EQ(flowmap::kernels::blocks_for(1, 128), 1u);
  EXPECT_EQ(flowmap::kernels::blocks_for(128, 128), 1u);
  EXPECT_EQ(flowmap::kernels::blocks_for(129, 128), 2u);
  EXPECT_EQ(flowmap::kernels::blocks_for(2147483647, 1), 2147483647u);
  EXPECT_THROW(flowmap::kernels::blocks_for(2147483648, 1), std::invalid_argument);
}

}  // namespace
