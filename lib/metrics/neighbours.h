// Exact nearest neighbours and distance counts in feature space, in tiles.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace flowmap::metrics {

// Squared distances here are those of flowmap/ops_pairwise.h, of features as float32: the
// same two rows give the same bits wherever they stand, so that ties between equal rows
// are ties.

struct Neighbours {
  at::Tensor rows;     // int64 [n, k], nearest first; equal distances by row number
  at::Tensor squares;  // float64 [n, k], squared distances
};

// For each query its k nearest rows of `base`. queries float [n, d], base float [m, d],
// m >= k; on any device, the answer is on the CPU. Never more than tile x tile distances
// at once. Throws Error on unlike dimensions, too few rows, values that are not finite.
Neighbours nearest_neighbours(const at::Tensor& queries, const at::Tensor& base, int64_t k,
                              int64_t tile = 2048);

// float64 [n]: the squared distance of each row to its k-th nearest other row of the same
// set (copies are others, at 0). n > k.
at::Tensor own_squares(const at::Tensor& rows, int64_t k, int64_t tile = 2048);

// Who lies within whose ball, pairs (row i, other j).
struct BallCounts {
  at::Tensor in_row;   // int64 [n]: how many j lie within the ball of row i
  at::Tensor around;   // int64 [m]: within the balls of how many rows j lies
  at::Tensor covered;  // int64 [n]: within the balls of how many others i lies
};

// row_squares float64 [n], other_squares float64 [m]: squared radii. `inclusive`: a
// distance equal to the radius counts.
BallCounts count_in_balls(const at::Tensor& rows, const at::Tensor& row_squares,
                          const at::Tensor& others, const at::Tensor& other_squares,
                          bool inclusive);

}  // namespace flowmap::metrics
