#include "tests/support/device_memory.h"

#include <stdexcept>

#ifdef FLOWMAP_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace flowmap::testing {

#ifdef FLOWMAP_WITH_CUDA

namespace {

void require_cuda(cudaError_t status, const char* call) {
  if (status != cudaSuccess) {
    throw std::runtime_error(std::string(call) + ": " + cudaGetErrorString(status));
  }
}

}  // namespace

std::string why_no_gpu() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess) {
    return std::string("no CUDA device: ") + cudaGetErrorString(status);
  }
  return devices == 0 ? "no CUDA device: the driver lists none" : "";
}

DeviceMemory::DeviceMemory(std::size_t bytes) {
  void* data = nullptr;
  require_cuda(cudaMalloc(&data, bytes), "cudaMalloc");
  data_ = static_cast<char*>(data);
}

DeviceMemory::~DeviceMemory() { cudaFree(data_); }

void DeviceMemory::upload(const void* from, std::size_t bytes) {
  require_cuda(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
}

void DeviceMemory::download(void* to, std::size_t bytes) const {
  require_cuda(cudaDeviceSynchronize(), "kernel under test");
  require_cuda(cudaMemcpy(to, data_, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

#else

namespace {

[[noreturn]] void no_device_memory() { throw std::runtime_error(why_no_gpu()); }

}  // namespace

std::string why_no_gpu() { return "this build has no CUDA kernels (FLOWMAP_CUDA)"; }

DeviceMemory::DeviceMemory(std::size_t) { no_device_memory(); }
DeviceMemory::~DeviceMemory() = default;
void DeviceMemory::upload(const void*, std::size_t) { no_device_memory(); }
void DeviceMemory::download(void*, std::size_t) const { no_device_memory(); }

#endif

}  // namespace flowmap::testing
