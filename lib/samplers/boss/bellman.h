// The cheapest path through a cost matrix for every number of steps at once (Watson et al.
// 2021, arXiv 2106.03802; Nguyen et al. 2024, arXiv 2312.16414, algorithm 1).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace flowmap::samplers {

class BellmanTable {
 public:
  // cost [T+1, T+1]: entry (i, j), i < j, is the cost of one step from anchor i to anchor
  // j; nothing else is read. Up to `most` steps. V(i, 1) = c(i, T),
  // V(i, k) = min_{i<j<T} c(i, j) + discount V(j, k-1); ties go to the smallest j.
  // discount: 1; 1.15 as GITS has it (Chen et al. 2024, arXiv 2405.11326). +inf entries are
  // steps that may not be taken; NaN throws Error.
  BellmanTable(const at::Tensor& cost, int64_t most, double discount = 1);

  int64_t anchors() const { return anchors_; }  // T+1
  int64_t most() const { return most_; }
  // The cheapest cost from anchor i to the last in exactly k steps, +inf where there is no
  // such path; and the anchor after i on it, -1 where there is none.
  double cost(int64_t i, int64_t k) const;
  int64_t next(int64_t i, int64_t k) const;
  bool feasible(int64_t k) const;
  // The k + 1 anchors from 0 to T. Throws UsageError where k steps cannot be taken, naming
  // the range.
  std::vector<int64_t> path(int64_t k) const;

 private:
  std::size_t place(int64_t i, int64_t k) const;
  int64_t anchors_ = 0, most_ = 0;
  std::vector<double> cost_;
  std::vector<int64_t> next_;
};

}  // namespace flowmap::samplers
