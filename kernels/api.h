// Kernels behind the toolkit's hot operations: raw pointers, sizes, a stream; no torch.
//
// Each operation comes twice, with the same arguments:
//   reference::op  plain C++ on host memory, sums in double; the truth that tests use and
//                  what a CPU build runs where nothing faster exists;
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

}  // namespace reference

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

}  // namespace flowmap::kernels
