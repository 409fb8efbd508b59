// Kernels behind the toolkit's hot operations: raw pointers, sizes, a stream; no torch.
//
// Each operation comes twice or three times, with the same arguments:
//   reference::op  plain C++ on host memory, sums in double; the truth that tests use and
//                  what a CPU build runs where nothing faster exists;
//   op_cpu         the same on host memory, vectorised (where present). One thread: callers
//                  split the rows that it takes among theirs;
//   op_cuda        the kernel in op.cu, on device memory, queued on `stream`; it returns
//                  before the work is done. In a build without CUDA it throws
//                  std::runtime_error that says how to get one.
// Every entry throws std::invalid_argument for sizes that make no sense, and does nothing
// where a size is zero (pointers may then be null). Pointers need the alignment of their
// element type only. Float32 is IEEE single precision; nothing flushes denormals.
#pragma once

#include <cstdint>

namespace flowmap::kernels {

// A cudaStream_t; null is the default stream.
using Stream = void*;

// Whether this build holds the CUDA kernels (not whether a device is present).
bool cuda_compiled();

// Rows of random numbers, each a function of (seed, stream id, index, position) as
// flowmap/base/rng.h defines it: Philox4x32-10, key = mix64(seed) xor stream_id, counter
// = (position / 4, index).
struct PhiloxRows {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  const std::uint64_t* seeds = nullptr;    // [rows]
  const std::uint64_t* indices = nullptr;  // [rows]
  std::uint64_t stream_id = 0;             // of the random stream: FNV-1a-64 of its name
};

// Affine part and activation of a group normalisation. With xhat the input normalised
// over the channels / groups * spatial values of its group (biased variance),
//   p = (xhat * weight[c] + bias[c]) * (1 + scale[b,c]) + shift[b,c],
//   output = silu ? p / (1 + exp(-p)) : p.
struct GroupNorm {
  std::int64_t batch = 0;
  std::int64_t channels = 0;
  std::int64_t spatial = 0;  // H * W
  std::int64_t groups = 1;   // divides channels; a group holds at most 2^31 - 1 values
  double epsilon = 1e-5;     // added to the variance
  const float* weight = nullptr;  // [C]; null: 1
  const float* bias = nullptr;    // [C]; null: 0
  const float* scale = nullptr;   // [B, C], rows modulation_stride apart; null: 0
  const float* shift = nullptr;   // as scale; null: 0
  // Elements from one row of scale (and of shift) to the next; 0: channels. 2 * channels
  // takes the halves of one [B, 2C] tensor without a copy.
  std::int64_t modulation_stride = 0;
  bool silu = true;
};

// One axis of a separable filter: output i is the sum over k < count[i] of
// weights[k, i] * input[first[i] + k]. Every window must lie inside the input
// (0 <= first, 1 <= count <= taps, first + count <= inputs): host entries check it, on the
// device it is the caller's word.
struct FilterAxis {
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
  std::int64_t taps = 0;              // the most that an output has
  const std::int32_t* first = nullptr;  // [outputs]
  const std::int32_t* count = nullptr;  // [outputs]
  const double* weights = nullptr;      // [taps, outputs]
};

// Pictures as bytes to the input of a network: filter along the columns (rounded to
// float), then along the rows, clip to 0..255 if asked, (value - shift) * scale. Gray
// becomes three equal channels.
struct ResizeNormalize {
  std::int64_t batch = 0;
  std::int64_t channels = 3;   // 1 or 3
  bool channels_last = false;  // input [B, H, W, C]; else [B, C, H, W]
  FilterAxis rows;             // H -> output height
  FilterAxis columns;          // W -> output width
  bool clip = false;
  double shift = 0.0;
  double scale = 1.0;
};

// Rows of features and what is asked about all pairs (x[i], y[j]).
struct RowPairs {
  std::int64_t x_rows = 0;
  std::int64_t y_rows = 0;
  std::int64_t dimensions = 0;
  const float* x = nullptr;  // [x_rows, dimensions]
  const float* y = nullptr;  // [y_rows, dimensions]
};

namespace reference {

// output [rows, columns] float32, standard normal by Box-Muller in double, rounded once.
// Bit-equal to flowmap::philox_normals.
void philox_normals(const PhiloxRows& rows, float* output);

// output [rows, columns] float32, uniform in [0, 1) with 24 bits. Bit-equal to
// flowmap::philox_uniforms.
void philox_uniforms(const PhiloxRows& rows, float* output);

// input [batch, channels, spatial] float32 in [-1, 1] to output [batch, spatial,
// channels] uint8 by EDM's rule: clamp(x * 127.5 + 128, 0, 255), truncated; product and
// sum rounded to float one after the other, as LibTorch does. NaN becomes 0. Exact.
void image_to_uint8(const float* input, std::int64_t batch, std::int64_t channels,
                    std::int64_t spatial, std::uint8_t* output);

// input, output [batch, channels, spatial] float32; output may be the input itself.
// Everything in double, rounded once. A NaN or infinity makes its whole group NaN.
void group_norm_silu(const float* input, const GroupNorm& norm, float* output);

// input uint8 -> output [batch, 3, rows.outputs, columns.outputs] float32. Sums in
// double; rounded to float between the passes and at the end.
void resize_normalize(const std::uint8_t* input, const ResizeNormalize& resize,
                      float* output);

// scatter [dimensions, dimensions] float64 += rows^T rows, rows [count, dimensions]
// float64.
void add_scatter(const double* rows, std::int64_t count, std::int64_t dimensions,
                 double* scatter);

// output [x_rows, y_rows] float64: sum over k of (x[i,k] - y[j,k])^2.
void squared_distances(const RowPairs& pairs, double* output);

// output [x_rows] int64: for how many j is the squared distance of x[i] and y[j] at most
// (inclusive) or below a squared radius, x_radii[i] or y_radii[j]; exactly one of the two
// is given. A NaN is never within.
void count_within(const RowPairs& pairs, const double* x_radii, const double* y_radii,
                  bool inclusive, std::int64_t* output);

// output [x_rows] float64: sum over j of (x[i].y[j] / dimensions + 1)^3, the kernel of
// KID, without the term of j - i == skip (INT64_MIN leaves none out).
void polynomial_sums(const RowPairs& pairs, std::int64_t skip, double* output);

}  // namespace reference

// The rows [first_row, last_row) of all batch * rows.outputs output rows, picture by
// picture; writes nothing else. Within 2^-22 (255 w + |shift|) |scale| of the reference, w
// the product of the axes' largest sums of |weights|: another order of the sums can move
// the roundings between the passes and at the end by one step.
void resize_normalize_cpu(const std::uint8_t* input, const ResizeNormalize& resize,
                          std::int64_t first_row, std::int64_t last_row, float* output);

// add_scatter for the columns [first_column, last_column) on and above the diagonal; may
// write below it in the 16 rows under it. mirror_scatter then copies the upper triangle to
// the lower. Within (count + 2) 2^-53 sum |row_i row_j| of the exact sum; the bits do not
// depend on how the columns are split where the splits are multiples of 16 (others throw).
// On a GPU this is a matrix product of LibTorch's: see flowmap/ops_moments.h.
void add_scatter_cpu(const double* rows, std::int64_t count, std::int64_t dimensions,
                     std::int64_t first_column, std::int64_t last_column,
                     double* scatter);
void mirror_scatter_cpu(std::int64_t dimensions, double* scatter);

// Distances are within dimensions * 2^-53 (relative) of the exact ones, polynomial sums
// within (dimensions + y_rows + 4) 2^-53 sum_j (sum_k |x y| / dimensions + 1)^3. A pair of
// rows has the same bits wherever the two stand, in whichever order, whatever the other
// rows are, and from squared_distances as within count_within: a tie of a distance and a
// radius that came from an equal pair is exact. Holds on one device, not between two.
void squared_distances_cpu(const RowPairs& pairs, double* output);
void count_within_cpu(const RowPairs& pairs, const double* x_radii, const double* y_radii,
                      bool inclusive, std::int64_t* output);
void polynomial_sums_cpu(const RowPairs& pairs, std::int64_t skip, double* output);

// Against the reference: within 1 ulp (the device's double log, sin and cos differ in
// their last bits). All pointers, seeds and indices too, are device memory.
void philox_normals_cuda(const PhiloxRows& rows, float* output, Stream stream);

// Bit-equal to the reference.
void philox_uniforms_cuda(const PhiloxRows& rows, float* output, Stream stream);

// Bit-equal to the reference.
void image_to_uint8_cuda(const float* input, std::int64_t batch, std::int64_t channels,
                         std::int64_t spatial, std::uint8_t* output, Stream stream);

// Against the reference: |error| <= (8 + |p|) 2^-24 |output| (2^-23 |output| without
// SiLU) + 2^-40 |weight (1 + scale)| (1 + |mean| / sqrt(variance + epsilon)) + 1e-36: the
// statistics and the affine part are double, the activation is float. Output may be the
// input itself. The same bits on every run; not a function of the batch.
void group_norm_silu_cuda(const float* input, const GroupNorm& norm, float* output,
                          Stream stream);

// Bound: as resize_normalize_cpu. The tables of both axes are device memory too.
void resize_normalize_cuda(const std::uint8_t* input, const ResizeNormalize& resize,
                           float* output, Stream stream);

// Bounds and the promise about ties: as the _cpu entries.
void squared_distances_cuda(const RowPairs& pairs, double* output, Stream stream);
void count_within_cuda(const RowPairs& pairs, const double* x_radii,
                       const double* y_radii, bool inclusive, std::int64_t* output,
                       Stream stream);
void polynomial_sums_cuda(const RowPairs& pairs, std::int64_t skip, double* output,
                          Stream stream);

}  // namespace flowmap::kernels
