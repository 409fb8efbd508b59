// Running mean and scatter of rows of features in float64: one pass, mergeable.
//
// The centred rows of a batch and the correction for the shift of the mean (Chan, Golub,
// LeVeque, COMPSTAT 1982, eq. 2.1), as one row more, go into the scatter by one symmetric
// product, in place. On the CPU by our kernel, the upper triangle only: at 2048 dimensions
// 1000 rows take 54 ms of one core (AMD with AVX-512), 140 by at::addmm in place alone; 50
// rows 5 ms, where a product into fresh memory and a merge of whole matrices take 48.
//
// On a GPU by LibTorch's matrix product, which is where a kernel of ours would lose: the
// 4.2e11 float64 operations of 50,000 rows at 2048 dimensions are 6 ms on the tensor cores
// of an H100 (67 TFLOPS), and half the products without them (34 TFLOPS) take as long. The
// features of those rows cost 5.7e14 operations of the detector: a thousand times that. On
// cards with a 64th of the rate (1.3 TFLOPS) it is 0.3 s in about 10.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace flowmap::ops {

// Adds rows floating [B, d] to count, mean float64 [d] and scatter float64 [d, d] (sum of
// (row - mean)(row - mean)^T); with count 0 mean and scatter are made, on the device of the
// rows. On the CPU scatter stays symmetric to the bit. Its error, relative to the spread
// squared, is of the order of (B + 3) 2^-53 + 2^-53 |mean| / spread: rows are centred
// before they are multiplied, and the second part is the rounding of the mean that is
// kept. Values that are not finite make what they touch not finite.
void add_moments(int64_t& count, at::Tensor& mean, at::Tensor& scatter,
                 const at::Tensor& rows);

// Adds what another set accumulated; its tensors stay as they are.
void merge_moments(int64_t& count, at::Tensor& mean, at::Tensor& scatter,
                   int64_t other_count, const at::Tensor& other_mean,
                   const at::Tensor& other_scatter);

}  // namespace flowmap::ops
