// Float images [B,C,H,W] to interleaved bytes [B,H,W,C]: one thread a pixel, so reads are
// contiguous in each channel and a warp's writes fill one run of bytes.
#include "kernels/launch.h"

#include "kernels/arguments.h"

namespace FM_KERNELS_NAMESPACE {
namespace {

constexpr int kPixelThreads = 256;

__global__ void __launch_bounds__(kPixelThreads)
    image_to_uint8_kernel(const float* input, std::int64_t batch, std::int64_t channels,
                          std::int64_t spatial, std::uint8_t* output) {
  const std::int64_t pixel =
      std::int64_t{blockIdx.x} * kPixelThreads + static_cast<int>(threadIdx.x);
  if (pixel >= batch * spatial) {
    return;
  }
  const std::int64_t image = pixel / spatial;
  const float* in = input + image * channels * spatial + (pixel - image * spatial);
  std::uint8_t* out = output + pixel * channels;
  for (std::int64_t c = 0; c < channels; ++c) {
    // The intrinsics keep the compiler from one fused rounding, which changes bytes.
    const float value = __fadd_rn(__fmul_rn(in[c * spatial], 127.5f), 128.0f);
    // NaN fails the first comparison and so becomes 0.
    out[c] = value > 0.0f ? static_cast<std::uint8_t>(value < 255.0f ? value : 255.0f)
                          : std::uint8_t{0};
  }
}

}  // namespace

void image_to_uint8_cuda(const float* input, std::int64_t batch, std::int64_t channels,
                         std::int64_t spatial, std::uint8_t* output, Stream stream) {
  const char* entry = "image_to_uint8_cuda";
  if (checked_count(entry, sizeof(float), batch, channels, spatial) == 0) {
    return;
  }
  FM_LAUNCH(image_to_uint8_kernel, blocks_for(batch * spatial, kPixelThreads),
            kPixelThreads, 0, stream, input, batch, channels, spatial, output);
}

}  // namespace FM_KERNELS_NAMESPACE
