// GroupNorm, scale and shift, SiLU in two reads and one write: one block a group of one
// image, whose values lie together in memory.
//
// Statistics: sums of d and d^2 in double, d the distance from the group's first value.
// The shift makes one pass safe: with K = (first - mean)^2 / variance, at most n - 1, the
// variance is wrong by about (n / threads) K 2^-53 of itself.
#include "kernels/launch.h"

#include "kernels/arguments.h"

namespace FM_KERNELS_NAMESPACE {
namespace {

constexpr int kNormThreads = 256;
constexpr int kNormWarps = kNormThreads / 32;

struct Moments {
  double sum;
  double squares;
};

// Sum over the 32 lanes of a warp, given to each of them.
__device__ __forceinline__ Moments warp_sum(Moments moments) {
  for (int offset = 16; offset > 0; offset /= 2) {
    moments.sum += __shfl_xor_sync(0xffffffffu, moments.sum, offset);
    moments.squares += __shfl_xor_sync(0xffffffffu, moments.squares, offset);
  }
  return moments;
}

// Sum over a block of whole warps, given to each thread. Once per kernel: the shared
// array is not guarded against a second use.
__device__ __forceinline__ Moments block_sum(Moments moments) {
  __shared__ Moments of_warp[kNormWarps];
  moments = warp_sum(moments);
  const unsigned lane = threadIdx.x % 32u;
  if (lane == 0) {
    of_warp[threadIdx.x / 32u] = moments;
  }
  __syncthreads();
  return warp_sum(lane < blockDim.x / 32u ? of_warp[lane] : Moments{0.0, 0.0});
}

__device__ __forceinline__ void accumulate(Moments* moments, float value, double first) {
  const double distance = static_cast<double>(value) - first;
  moments->sum += distance;
  moments->squares += distance * distance;
}

// p = x * factor + offset, per (batch, channel).
struct Affine {
  double factor;
  double offset;
};

__device__ __forceinline__ Affine affine_of(const GroupNorm& norm, std::int64_t batch,
                                            std::int64_t channel, double mean,
                                            double inverse_std) {
  const double weight = norm.weight ? static_cast<double>(norm.weight[channel]) : 1.0;
  const double bias = norm.bias ? static_cast<double>(norm.bias[channel]) : 0.0;
  const std::int64_t at = batch * norm.modulation_stride + channel;
  const double scale = norm.scale ? 1.0 + static_cast<double>(norm.scale[at]) : 1.0;
  const double shift = norm.shift ? static_cast<double>(norm.shift[at]) : 0.0;
  const double factor = inverse_std * weight;
  return {factor * scale, (bias - mean * factor) * scale + shift};
}

__device__ __forceinline__ float activate(float value, const Affine& affine, bool silu) {
  const float p =
      static_cast<float>(static_cast<double>(value) * affine.factor + affine.offset);
  return silu ? p / (1.0f + expf(-p)) : p;
}

// kVector: four values at a time; needs 16-byte alignment and spatial % 4 == 0, so that
// four neighbours share a channel.
template <bool kVector>
__global__ void __launch_bounds__(kNormThreads)
    group_norm_silu_kernel(const float* input, GroupNorm norm, float* output) {
  const std::int64_t group_channels = norm.channels / norm.groups;
  const auto count = static_cast<std::uint32_t>(group_channels * norm.spatial);
  const std::int64_t start = std::int64_t{blockIdx.x} * count;
  const std::int64_t batch = blockIdx.x / norm.groups;
  const std::int64_t first_channel = (blockIdx.x - batch * norm.groups) * group_channels;
  const float* in = input + start;
  float* out = output + start;
  constexpr std::uint32_t kWidth = kVector ? 4 : 1;

  const double first = static_cast<double>(in[0]);
  Moments moments{0.0, 0.0};
  for (std::uint32_t i = threadIdx.x; i < count / kWidth; i += blockDim.x) {
    if constexpr (kVector) {
      const float4 four = reinterpret_cast<const float4*>(in)[i];
      accumulate(&moments, four.x, first);
      accumulate(&moments, four.y, first);
      accumulate(&moments, four.z, first);
      accumulate(&moments, four.w, first);
    } else {
      accumulate(&moments, in[i], first);
    }
  }
  // Its barrier also separates all reads of in[0] from the writes, for output == input.
  moments = block_sum(moments);
  const double mean_distance = moments.sum / count;
  double variance = moments.squares / count - mean_distance * mean_distance;
  variance = variance < 0.0 ? 0.0 : variance;  // keeps a NaN
  const double mean = first + mean_distance;
  const double inverse_std = 1.0 / sqrt(variance + norm.epsilon);

  const auto per_channel = static_cast<std::uint32_t>(norm.spatial) / kWidth;
  std::uint32_t channel = ~0u;
  Affine affine{0.0, 0.0};
  for (std::uint32_t i = threadIdx.x; i < count / kWidth; i += blockDim.x) {
    if (i / per_channel != channel) {
      channel = i / per_channel;
      affine = affine_of(norm, batch, first_channel + channel, mean, inverse_std);
    }
    if constexpr (kVector) {
      float4 four = reinterpret_cast<const float4*>(in)[i];
      four.x = activate(four.x, affine, norm.silu);
      four.y = activate(four.y, affine, norm.silu);
      four.z = activate(four.z, affine, norm.silu);
      four.w = activate(four.w, affine, norm.silu);
      reinterpret_cast<float4*>(out)[i] = four;
    } else {
      out[i] = activate(in[i], affine, norm.silu);
    }
  }
}

bool aligned16(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
}

}  // namespace

void group_norm_silu_cuda(const float* input, const GroupNorm& norm, float* output,
                          Stream stream) {
  if (checked_count("group_norm_silu_cuda", norm) == 0) {
    return;
  }
  GroupNorm arguments = norm;
  if (arguments.modulation_stride == 0) {
    arguments.modulation_stride = norm.channels;
  }
  const bool vector = norm.spatial % 4 == 0 && aligned16(input) && aligned16(output);
  // Whole warps, no more than the group keeps busy. The choice of path changes the order
  // of the sums, in double, so bits may differ between differently aligned tensors.
  const std::int64_t items =
      norm.channels / norm.groups * norm.spatial / (vector ? 4 : 1);
  const std::int64_t warps = (items - 1) / 32 + 1;
  const int threads = static_cast<int>(warps < kNormWarps ? warps : kNormWarps) * 32;
  const unsigned blocks = blocks_for(norm.batch * norm.groups, 1);
  if (vector) {
    FM_LAUNCH(group_norm_silu_kernel<true>, blocks, threads, 0, stream, input, arguments,
              output);
  } else {
    FM_LAUNCH(group_norm_silu_kernel<false>, blocks, threads, 0, stream, input, arguments,
              output);
  }
}

}  // namespace FM_KERNELS_NAMESPACE
