// Inception Score (Salimans et al. 2016, arXiv 1606.03498): exp of the mean divergence of
// a classifier's output from its mean output.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace flowmap::metrics {

struct InceptionScoreOptions {
  int64_t splits = 10;
  bool shuffle = true;        // rows by numpy's RandomState(seed).permutation first
  std::uint32_t seed = 2020;  // torch-fidelity's
};

struct InceptionScore {
  double mean = 0;
  double deviation = 0;  // over splits, population (N)
  std::vector<double> values;
};

// logits: float [N, classes], N >= splits; split i holds rows i N / splits up to
// (i + 1) N / splits. In float64 by log-softmax, so that a probability of zero adds zero
// where the formula over probabilities gives nan. Throws Error on other shapes, UsageError
// where N < splits.
InceptionScore inception_score(const at::Tensor& logits,
                               const InceptionScoreOptions& options);

}  // namespace flowmap::metrics
