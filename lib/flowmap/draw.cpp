#include "flowmap/draw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <bit>
#include <span>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/rng.h"

namespace flowmap {
namespace {

// Numbers a thread makes at least; a normal costs tens of nanoseconds.
constexpr int64_t kDrawGrain = 4096;

// [rows, row_shape...] of `type`, each row filled by fill(row, its first number, count).
template <class T, class Fill>
at::Tensor draw_rows(int64_t rows, at::IntArrayRef row_shape, at::ScalarType type,
                     Fill fill) {
  std::vector<int64_t> shape{rows};
  shape.insert(shape.end(), row_shape.begin(), row_shape.end());
  at::Tensor result = at::empty(shape, at::TensorOptions().dtype(type));
  if (result.numel() == 0) return result;
  const int64_t size = result.numel() / rows;
  T* to = result.mutable_data_ptr<T>();
  const int64_t grain = std::max<int64_t>(1, kDrawGrain / size);
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      fill(static_cast<std::size_t>(row),
           std::span<T>(to + row * size, static_cast<std::size_t>(size)));
  });
  return result;
}

std::uint64_t stream_with_prefix(const std::string& prefix, std::string_view stream) {
  if (prefix.empty()) return stream_id(stream);
  return stream_id(prefix + "/" + std::string(stream));
}

// The high 64 bits of a product of 64-bit numbers: scales a word to [0, high).
std::uint64_t scaled(std::uint64_t word, std::uint64_t high) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>((Wide{word} * high) >> 64);
}

}  // namespace

Draw::Draw(std::uint64_t seed, std::uint64_t first_index, int64_t rows) {
  FM_CHECK(rows >= 0, "a draw of ", rows, " rows");
  seeds_.assign(static_cast<std::size_t>(rows), seed);
  indices_.resize(seeds_.size());
  for (std::size_t i = 0; i < indices_.size(); ++i) indices_[i] = first_index + i;
}

Draw Draw::per_seed(const std::vector<std::uint64_t>& seeds) {
  Draw result;
  result.seeds_ = seeds;
  result.indices_.assign(seeds.size(), 0);
  return result;
}

Draw Draw::fork(std::string_view prefix) const {
  Draw result = *this;
  if (!result.prefix_.empty()) result.prefix_ += '/';
  result.prefix_ += prefix;
  return result;
}

Draw Draw::select(const at::Tensor& rows) const {
  FM_CHECK(rows.dim() == 1 && rows.scalar_type() == at::kLong && rows.is_cpu(),
           "rows of a draw are picked by int64 [n] on the CPU, got ", rows.toString(),
           " with ", rows.dim(), " dimensions");
  Draw result;
  result.prefix_ = prefix_;
  const at::Tensor positions = rows.contiguous();
  const int64_t* position = positions.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < positions.numel(); ++i) {
    FM_CHECK(position[i] >= 0 && position[i] < this->rows(), "row ", position[i],
             " of a draw of ", this->rows());
    const auto at = static_cast<std::size_t>(position[i]);
    result.seeds_.push_back(seeds_[at]);
    result.indices_.push_back(indices_[at]);
  }
  return result;
}

Draw Draw::slice(int64_t begin, int64_t end) const {
  FM_CHECK(0 <= begin && begin <= end && end <= rows(), "rows ", begin, " to ", end,
           " of a draw of ", rows());
  Draw result;
  result.prefix_ = prefix_;
  result.seeds_.assign(seeds_.begin() + begin, seeds_.begin() + end);
  result.indices_.assign(indices_.begin() + begin, indices_.begin() + end);
  return result;
}

at::Tensor Draw::normal(std::string_view stream, at::IntArrayRef row_shape) const {
  const std::uint64_t id = stream_with_prefix(prefix_, stream);
  return draw_rows<float>(rows(), row_shape, at::kFloat,
                          [&](std::size_t row, std::span<float> out) {
                            philox_normals(seeds_[row], id, indices_[row], out);
                          });
}

at::Tensor Draw::uniform(std::string_view stream, at::IntArrayRef row_shape) const {
  const std::uint64_t id = stream_with_prefix(prefix_, stream);
  return draw_rows<float>(rows(), row_shape, at::kFloat,
                          [&](std::size_t row, std::span<float> out) {
                            philox_uniforms(seeds_[row], id, indices_[row], out);
                          });
}

// Position p comes from words 2p (low) and 2p+1 (high) as a 64-bit fraction of `high`, so
// the bias is below high / 2^64.
at::Tensor Draw::integer(std::string_view stream, at::IntArrayRef row_shape,
                         int64_t high) const {
  FM_CHECK(high >= 1, "integers below ", high, " are asked for; at least 1 is needed");
  const std::uint64_t id = stream_with_prefix(prefix_, stream);
  return draw_rows<int64_t>(
      rows(), row_shape, at::kLong, [&](std::size_t row, std::span<int64_t> out) {
        std::vector<std::uint32_t> words(2 * out.size());
        philox_words(seeds_[row], id, indices_[row], words);
        for (std::size_t p = 0; p < out.size(); ++p)
          out[p] = static_cast<int64_t>(
              scaled(words[2 * p] | std::uint64_t{words[2 * p + 1]} << 32,
                     static_cast<std::uint64_t>(high)));
      });
}

// A Feistel network permutes [0, 2^(2h)), the least such range that holds n; its round
// function is a Philox word keyed by (seed, epoch). Values outside [0, n) are permuted
// again until they fall inside (cycle walking; Black and Rogaway, "Ciphers with arbitrary
// finite domains", CT-RSA 2002), fewer than four times on average.
int64_t shuffled_index(std::uint64_t seed, std::uint64_t k, int64_t n) {
  FM_CHECK(n >= 1 && n <= (int64_t{1} << 40), "a shuffle of ", n,
           " items; 1 to 2^40 are possible");
  const auto size = static_cast<std::uint64_t>(n);
  const std::uint64_t epoch = k / size;
  const int half_bits = std::max(1, (static_cast<int>(std::bit_width(size - 1)) + 1) / 2);
  const std::uint64_t half_mask = (std::uint64_t{1} << half_bits) - 1;
  static const std::uint64_t stream = stream_id("shuffled_index");
  const auto key = philox_key(seed, stream);
  constexpr std::uint32_t kRounds = 6;
  std::uint64_t value = k % size;
  do {
    std::uint64_t left = value >> half_bits, right = value & half_mask;
    for (std::uint32_t round = 0; round < kRounds; ++round) {
      const PhiloxBlock block = philox4x32(
          {static_cast<std::uint32_t>(right), round, static_cast<std::uint32_t>(epoch),
           static_cast<std::uint32_t>(epoch >> 32)},
          key);
      left = std::exchange(right, left ^ (block[0] & half_mask));
    }
    value = left << half_bits | right;
  } while (value >= size);
  return static_cast<int64_t>(value);
}

}  // namespace flowmap
