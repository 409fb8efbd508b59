// The assignment problem.
#pragma once

#include <cstdint>
#include <vector>

namespace flowmap {

// Columns j(i) of a cost matrix [n, n] (row-major) with the least sum of cost(i, j(i)), each
// column once. Exact, O(n^3) (shortest augmenting paths: Jonker and Volgenant 1987). Throws
// Error where the matrix is not n x n or a cost is not finite.
std::vector<int64_t> least_cost_assignment(const std::vector<double>& cost, int64_t n);

}  // namespace flowmap
