// What a .cu file is written against. Under nvcc: the CUDA runtime. Under a plain C++
// compiler: emulation.h, so that tests run the same source without a GPU.
//
//   FM_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)
//     kernel<<<grid, block, shared_bytes, stream>>>(arguments...), and throws where the
//     launch is refused; a kernel template with several arguments goes in parentheses.
//   FM_KERNELS_NAMESPACE
//     where the entries are defined: flowmap::kernels, or flowmap::kernels::emulated in
//     an emulated build, which can therefore link to the real one.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/api.h"

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define FM_HOST_DEVICE __host__ __device__
#define FM_KERNELS_NAMESPACE flowmap::kernels
#define FM_LAUNCH(kernel, grid, block, shared, stream, ...)                             \
  do {                                                                                  \
    kernel<<<(grid), (block), (shared), static_cast<cudaStream_t>(stream)>>>(           \
        __VA_ARGS__);                                                                   \
    ::flowmap::kernels::check_launch(#kernel);                                          \
  } while (false)

namespace flowmap::kernels {

// Reports a launch that was refused; errors while the kernel runs come up at the next
// synchronisation, as with any CUDA code.
inline void check_launch(const char* kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string("launch of CUDA kernel ") + kernel + ": " +
                             cudaGetErrorString(status));
  }
}

}  // namespace flowmap::kernels

#else

#include "kernels/emulation.h"

#define FM_KERNELS_NAMESPACE flowmap::kernels::emulated
#define FM_LAUNCH(kernel, grid, block, shared, stream, ...)                             \
  do {                                                                                  \
    static_cast<void>(stream);                                                          \
    ::flowmap::kernels::emulation::launch(#kernel, dim3(grid), dim3(block), (shared),   \
                                          [&] { kernel(__VA_ARGS__); });                \
  } while (false)

#endif

namespace flowmap::kernels {

// Blocks of `threads` that cover `items`; throws where a grid cannot hold them.
inline unsigned blocks_for(std::int64_t items, int threads) {
  const std::int64_t blocks = items / threads + (items % threads != 0);
  if (blocks > 2147483647) {
    throw std::invalid_argument("a CUDA grid cannot hold " + std::to_string(items) +
                                " threads; split the batch");
  }
  return static_cast<unsigned>(blocks);
}

}  // namespace flowmap::kernels
