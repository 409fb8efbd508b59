// The CUDA entries of a build without CUDA.
#include <stdexcept>
#include <string>

#include "kernels/api.h"

namespace flowmap::kernels {
namespace {

[[noreturn]] void refuse_cuda(const char* entry) {
  throw std::runtime_error(
      std::string(entry) +
      ": this build has no CUDA kernels. Install the CUDA Toolkit (nvcc on PATH) and a "
      "CUDA build of LibTorch, and configure with -DFLOWMAP_CUDA=ON (preset cuda); or "
      "run on the CPU (--device cpu)");
}

}  // namespace

void philox_normals_cuda(const PhiloxRows&, float*, Stream) {
  refuse_cuda("philox_normals_cuda");
}

void philox_uniforms_cuda(const PhiloxRows&, float*, Stream) {
  refuse_cuda("philox_uniforms_cuda");
}

void image_to_uint8_cuda(const float*, std::int64_t, std::int64_t, std::int64_t,
                         std::uint8_t*, Stream) {
  refuse_cuda("image_to_uint8_cuda");
}

void group_norm_silu_cuda(const float*, const GroupNorm&, float*, Stream) {
  refuse_cuda("group_norm_silu_cuda");
}

void resize_normalize_cuda(const std::uint8_t*, const ResizeNormalize&, float*, Stream) {
  refuse_cuda("resize_normalize_cuda");
}

void squared_distances_cuda(const RowPairs&, double*, Stream) {
  refuse_cuda("squared_distances_cuda");
}

void count_within_cuda(const RowPairs&, const double*, const double*, bool, std::int64_t*,
                       Stream) {
  refuse_cuda("count_within_cuda");
}

void polynomial_sums_cuda(const RowPairs&, std::int64_t, double*, Stream) {
  refuse_cuda("polynomial_sums_cuda");
}

}  // namespace flowmap::kernels
