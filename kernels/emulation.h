// CUDA's execution model in plain C++, for tests: a .cu file compiled as C++ runs one
// block at a time, its threads as fibres (ucontext) on the calling thread. Index logic,
// tails, misalignment, barriers and shuffles can so be tested, and watched by
// AddressSanitizer, on a machine without a GPU. Include through launch.h.
//
// Stricter than a GPU where a GPU is merely undefined: a barrier that part of a block
// does not reach, a shuffle whose mask names a missing lane, and a read from a lane
// outside the mask throw std::logic_error. Not modelled: memory ordering, races within a
// warp, precision of the device's mathematics. Running a test in both orders (see Order)
// finds most missing barriers.
//
// Only what the kernels use is here; add what a new one needs, with a test.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define FM_EMULATION_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FM_EMULATION_ASAN 1
#endif
#endif
#ifdef FM_EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// The names below are CUDA's own, so they stand where CUDA has them.
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1)
      : x(x_), y(y_), z(z_) {}
};
// Vector access to an array of float, as on the device.
struct __attribute__((may_alias, aligned(16))) float4 {
  float x, y, z, w;
};

inline uint3 threadIdx;
inline uint3 blockIdx;
inline dim3 blockDim;
inline dim3 gridDim;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block at a time: what a block shares can be static. AddressSanitizer guards it.
#define __shared__ static
#define FM_HOST_DEVICE

namespace flowmap::kernels::emulation {

// In which order blocks, and the threads between two barriers, run.
enum class Order { forward, reverse };
inline Order order = Order::forward;

inline constexpr unsigned kWarp = 32;

class Machine {
 public:
  static Machine& instance() {
    static Machine machine;
    return machine;
  }

  void launch(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
              const std::function<void()>& body) {
    const std::size_t threads = std::size_t{block.x} * block.y * block.z;
    const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
    kernel_ = kernel;
    if (threads == 0 || threads > 1024 || blocks == 0) {
      fail("launch of " + std::to_string(blocks) + " blocks of " +
           std::to_string(threads) + " threads");
    }
    if (shared_bytes != 0) {
      fail("shared memory sized at the launch is not emulated; give the array a size");
    }
    body_ = &body;
    gridDim = grid;
    blockDim = block;
    lane_values_.assign(threads, 0);
    while (fibres_.size() < threads) {
      fibres_.push_back(std::make_unique<Fibre>());
    }
    for (std::size_t i = 0; i < blocks; ++i) {
      const std::size_t at = order == Order::forward ? i : blocks - 1 - i;
      blockIdx = {static_cast<unsigned>(at % grid.x),
                  static_cast<unsigned>(at / grid.x % grid.y),
                  static_cast<unsigned>(at / grid.x / grid.y)};
      run_block(threads);
    }
  }

  void wait_for_block() {
    running_->state = State::at_block_barrier;
    leave(false);
  }

  // Gives `value` to the lanes of the mask and takes that of lane `source`.
  std::uint64_t exchange(unsigned mask, std::uint64_t value, unsigned source) {
    const std::size_t first = running_->number / kWarp * kWarp;
    const unsigned lane = static_cast<unsigned>(running_->number - first);
    if ((mask >> lane & 1u) == 0) {
      fail("lane " + std::to_string(lane) + " is outside its own shuffle mask");
    }
    if ((mask >> source & 1u) == 0) {
      fail("shuffle reads lane " + std::to_string(source) + ", outside the mask");
    }
    lane_values_[running_->number] = value;
    wait_for_warp(mask);
    const std::uint64_t got = lane_values_[first + source];
    wait_for_warp(mask);  // nobody overwrites a value before everybody has read
    return got;
  }

  unsigned lane() const { return static_cast<unsigned>(running_->number % kWarp); }

 private:
  static constexpr std::size_t kStackBytes = 128 * 1024;
  enum class State { ready, at_block_barrier, at_warp_barrier, finished };

  struct Fibre {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    void* fake_stack = nullptr;
    std::size_t number = 0;
    State state = State::ready;
    unsigned mask = 0;
  };

  [[noreturn]] void fail(const std::string& what) const {
    throw std::logic_error("emulated kernel " + std::string(kernel_) + ", block (" +
                           std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) +
                           "," + std::to_string(blockIdx.z) + "): " + what);
  }

  void wait_for_warp(unsigned mask) {
    running_->state = State::at_warp_barrier;
    running_->mask = mask;
    leave(false);
  }

  void run_block(std::size_t threads) {
    error_ = nullptr;
    for (std::size_t i = 0; i < threads; ++i) {
      Fibre& fibre = *fibres_[i];
      fibre.number = i;
      fibre.state = State::ready;
      fibre.fake_stack = nullptr;
#ifdef FM_EMULATION_ASAN
      // A thread abandoned after an error leaves its frames poisoned.
      __asan_unpoison_memory_region(fibre.stack.get(), kStackBytes);
#endif
      getcontext(&fibre.context);
      fibre.context.uc_stack.ss_sp = fibre.stack.get();
      fibre.context.uc_stack.ss_size = kStackBytes;
      fibre.context.uc_link = nullptr;
      makecontext(&fibre.context, &Machine::thread_main, 0);
    }
    do {
      for (std::size_t i = 0; i < threads; ++i) {
        Fibre& fibre = *fibres_[order == Order::forward ? i : threads - 1 - i];
        if (fibre.state == State::ready) {
          enter(fibre);
          if (error_) {
            std::rethrow_exception(error_);
          }
        }
      }
    } while (release(threads));
  }

  // Opens every barrier that all of its threads have reached. False when all threads
  // have finished; throws where some wait for ever.
  bool release(std::size_t threads) {
    std::size_t finished = 0;
    std::size_t at_block_barrier = 0;
    bool released = false;
    for (std::size_t i = 0; i < threads; ++i) {
      Fibre& fibre = *fibres_[i];
      finished += fibre.state == State::finished;
      at_block_barrier += fibre.state == State::at_block_barrier;
      if (fibre.state == State::at_warp_barrier && warp_complete(i, threads)) {
        const std::size_t first = i / kWarp * kWarp;
        const unsigned mask = fibre.mask;
        for (unsigned lane = 0; lane < kWarp; ++lane) {
          if (mask >> lane & 1u) {
            fibres_[first + lane]->state = State::ready;
          }
        }
        released = true;
      }
    }
    if (finished == threads) {
      return false;
    }
    if (at_block_barrier == threads) {
      for (std::size_t i = 0; i < threads; ++i) {
        fibres_[i]->state = State::ready;
      }
      released = true;
    }
    if (!released) {
      fail("of " + std::to_string(threads) + " threads " + std::to_string(finished) +
           " have returned, " + std::to_string(at_block_barrier) +
           " wait at __syncthreads and the rest in a shuffle: not all reach the barrier");
    }
    return true;
  }

  bool warp_complete(std::size_t thread, std::size_t threads) const {
    const std::size_t first = thread / kWarp * kWarp;
    const unsigned mask = fibres_[thread]->mask;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      if (mask >> lane & 1u) {
        if (first + lane >= threads) {
          fail("shuffle mask names lane " + std::to_string(lane) +
               ", which the block does not have");
        }
        const Fibre& other = *fibres_[first + lane];
        if (other.state != State::at_warp_barrier || other.mask != mask) {
          return false;
        }
      }
    }
    return true;
  }

  static void thread_main() {
    Machine& machine = instance();
    machine.finish_switch(nullptr, &machine.host_bottom_, &machine.host_size_);
    try {
      (*machine.body_)();
    } catch (...) {
      machine.error_ = std::current_exception();
    }
    machine.running_->state = State::finished;
    machine.leave(true);
  }

  void enter(Fibre& fibre) {
    running_ = &fibre;
    const auto number = static_cast<unsigned>(fibre.number);
    threadIdx = {number % blockDim.x, number / blockDim.x % blockDim.y,
                 number / blockDim.x / blockDim.y};
    start_switch(&host_fake_stack_, fibre.stack.get(), kStackBytes);
    swapcontext(&host_, &fibre.context);
    finish_switch(host_fake_stack_, nullptr, nullptr);
  }

  void leave(bool for_good) {
    Fibre& fibre = *running_;
    start_switch(for_good ? nullptr : &fibre.fake_stack, host_bottom_, host_size_);
    swapcontext(&fibre.context, &host_);
    finish_switch(fibre.fake_stack, nullptr, nullptr);
  }

#ifdef FM_EMULATION_ASAN
  static void start_switch(void** save, const void* bottom, std::size_t size) {
    __sanitizer_start_switch_fiber(save, bottom, size);
  }
  static void finish_switch(void* saved, const void** bottom, std::size_t* size) {
    __sanitizer_finish_switch_fiber(saved, bottom, size);
  }
#else
  static void start_switch(void**, const void*, std::size_t) {}
  static void finish_switch(void*, const void**, std::size_t*) {}
#endif

  const char* kernel_ = "";
  const std::function<void()>* body_ = nullptr;
  std::vector<std::unique_ptr<Fibre>> fibres_;
  std::vector<std::uint64_t> lane_values_;
  std::exception_ptr error_;
  Fibre* running_ = nullptr;
  ucontext_t host_;
  void* host_fake_stack_ = nullptr;
  const void* host_bottom_ = nullptr;
  std::size_t host_size_ = 0;
};

inline void launch(const char* kernel, dim3 grid, dim3 block, std::size_t shared_bytes,
                   const std::function<void()>& body) {
  Machine::instance().launch(kernel, grid, block, shared_bytes, body);
}

}  // namespace flowmap::kernels::emulation

inline void __syncthreads() {
  flowmap::kernels::emulation::Machine::instance().wait_for_block();
}

// Lane l receives the value of lane l xor lane_mask.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  auto& machine = flowmap::kernels::emulation::Machine::instance();
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = machine.exchange(mask, bits, machine.lane() ^ static_cast<unsigned>(lane_mask));
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Product and sum rounded one after the other; noinline keeps the compiler from fusing.
__attribute__((noinline)) inline float __fmul_rn(float a, float b) { return a * b; }
__attribute__((noinline)) inline float __fadd_rn(float a, float b) { return a + b; }
