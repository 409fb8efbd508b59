#include "flowmap/assignment.h"

#include <cstddef>
#include <limits>

#include "flowmap/base/error.h"

namespace flowmap {

std::vector<int64_t> least_cost_assignment(const std::vector<double>& cost, int64_t n) {
  const auto size = static_cast<std::size_t>(n);
  FM_CHECK(cost.size() == size * size, "assignment: ", cost.size(), " costs for ", n,
           " rows");
  constexpr std::size_t kFree = std::numeric_limits<std::size_t>::max();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  // Dual prices keep cost - row_price - column_price at 0 or above, and 0 on the matching.
  std::vector<double> row_price(size, 0), column_price(size, 0);
  std::vector<std::size_t> row_of(size, kFree);
  for (std::size_t start = 0; start < size; ++start) {
    // Dijkstra over columns from row `start` to the nearest that is free.
    std::vector<double> distance(size, kInfinity);
    std::vector<std::size_t> came_from(size, kFree);  // column before this one
    std::vector<bool> settled(size, false);
    std::vector<std::size_t> path;
    std::size_t row = start, column = kFree;
    double reached = 0;
    for (;;) {
      std::size_t nearest = kFree;
      for (std::size_t j = 0; j < size; ++j) {
        if (settled[j]) continue;
        const double through =
            reached + cost[row * size + j] - row_price[row] - column_price[j];
        if (through < distance[j]) {
          distance[j] = through;
          came_from[j] = column;
        }
        if (nearest == kFree || distance[j] < distance[nearest]) nearest = j;
      }
      column = nearest;
      reached = distance[column];
      FM_CHECK(reached < kInfinity, "assignment: costs must be finite");
      settled[column] = true;
      if (row_of[column] == kFree) break;
      path.push_back(column);
      row = row_of[column];
    }
    // Prices first: they need the old matching.
    row_price[start] += reached;
    for (const std::size_t j : path) {
      row_price[row_of[j]] += reached - distance[j];
      column_price[j] -= reached - distance[j];
    }
    while (came_from[column] != kFree) {
      row_of[column] = row_of[came_from[column]];
      column = came_from[column];
    }
    row_of[column] = start;
  }
  std::vector<int64_t> column_of(size);
  for (std::size_t j = 0; j < size; ++j) column_of[row_of[j]] = static_cast<int64_t>(j);
  return column_of;
}

}  // namespace flowmap
