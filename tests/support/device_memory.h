// Arrays on the GPU for tests of kernels, without the CUDA headers (their names and those
// of kernels/emulation.h exclude each other).
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace flowmap::testing {

// Empty where the CUDA kernels can run; else why not ("this build has no CUDA kernels",
// "no CUDA device: ...").
std::string why_no_gpu();

// Bytes on the device. The three throw std::runtime_error with CUDA's own message.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  char* data() const { return data_; }
  void upload(const void* from, std::size_t bytes);
  void download(void* to, std::size_t bytes) const;  // waits for the kernels before it

 private:
  char* data_ = nullptr;
};

// A copy of `values` that starts `offset` elements behind an aligned address.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values, std::size_t offset = 0)
      : padded_(offset), size_(values.size()), memory_((offset + size_ + 1) * sizeof(T)) {
    padded_.insert(padded_.end(), values.begin(), values.end());
    memory_.upload(padded_.data(), padded_.size() * sizeof(T));
  }

  T* data() const {
    return reinterpret_cast<T*>(memory_.data()) + (padded_.size() - size_);
  }
  std::vector<T> values() const {
    std::vector<T> all(padded_.size());
    memory_.download(all.data(), all.size() * sizeof(T));
    return {all.end() - static_cast<std::ptrdiff_t>(size_), all.end()};
  }

 private:
  std::vector<T> padded_;
  std::size_t size_;
  DeviceMemory memory_;
};

}  // namespace flowmap::testing

// Skips the test, naming the reason, where no kernel can run.
#define FM_NEED_GPU()                                               \
  do {                                                              \
    if (const std::string why = ::flowmap::testing::why_no_gpu();   \
        !why.empty()) {                                             \
      GTEST_SKIP() << why;                                          \
    }                                                               \
  } while (false)
