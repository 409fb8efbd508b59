// The only source of randomness: numbers keyed by (seed, stream, index), see base/rng.h.
// A new draw shifts no other; micro-batches and ranks draw what one big batch would; and
// a resumed run needs no generator state.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace flowmap {

// One key a row: row i of everything drawn depends on (seed_i, stream, index_i) alone.
class Draw {
 public:
  // Training: one seed, rows numbered first_index, first_index + 1, ...
  Draw(std::uint64_t seed, std::uint64_t first_index, int64_t rows);
  // Sampling: one seed a row, index 0.
  static Draw per_seed(const std::vector<std::uint64_t>& seeds);

  int64_t rows() const { return static_cast<int64_t>(seeds_.size()); }
  // Streams of the result are called "<prefix>/<stream>"; prefixes nest.
  Draw fork(std::string_view prefix) const;
  // Rows picked by position (int64 [n], on the CPU).
  Draw select(const at::Tensor& rows) const;
  Draw slice(int64_t begin, int64_t end) const;

  // [rows, row_shape...], float32 on the CPU. Row shape {} gives [rows].
  at::Tensor normal(std::string_view stream, at::IntArrayRef row_shape) const;
  // In [0, 1), 24 bits.
  at::Tensor uniform(std::string_view stream, at::IntArrayRef row_shape) const;
  // int64 in [0, high).
  at::Tensor integer(std::string_view stream, at::IntArrayRef row_shape,
                     int64_t high) const;

 private:
  Draw() = default;
  std::vector<std::uint64_t> seeds_, indices_;
  std::string prefix_;
};

// Position k of an endless shuffled pass over n items: every epoch is its own
// permutation (a keyed Feistel network with cycle walking), computed from (seed, k)
// alone. n in [1, 2^40].
int64_t shuffled_index(std::uint64_t seed, std::uint64_t k, int64_t n);

}  // namespace flowmap
