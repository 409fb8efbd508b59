// Inside ops*.cpp only: where a CUDA kernel is queued.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace flowmap::ops::detail {

// LibTorch's current stream of a CUDA device, as kernels/api.h takes it.
inline void* current_stream(const c10::Device& device) {
  const c10::impl::VirtualGuardImpl guard(device.type());
  return guard.getStreamNativeHandle(guard.getStream(device));
}

}  // namespace flowmap::ops::detail
