// The compiler's vectors for the _cpu entries: 64 bytes, lowered to what the processor
// has. FM_CLONES compiles a plain function for AVX-512, AVX2 and the baseline, and the
// right one is picked at load time; everything that it calls must be FM_INLINE.
#pragma once

#include <cstdint>
#include <cstring>

// Not under a sanitizer: the picking runs before its runtime is ready.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)
#define FM_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FM_CLONES
#endif
#define FM_INLINE [[gnu::always_inline]] inline
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a call: all is inlined
#endif

namespace flowmap::kernels::vectors {

constexpr int kLanes = 8;
typedef double Doubles __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(32)));

template <typename Vector, typename T>
FM_INLINE Vector load(const T* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof(Vector));
  return vector;
}

template <typename Vector, typename T>
FM_INLINE void store(T* to, const Vector& vector) {
  std::memcpy(to, &vector, sizeof(Vector));
}

}  // namespace flowmap::kernels::vectors
