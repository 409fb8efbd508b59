#include "samplers/boss/bellman.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "flowmap/base/error.h"

namespace flowmap::samplers {

BellmanTable::BellmanTable(const at::Tensor& cost, int64_t most, double discount)
    : anchors_(cost.size(0)), most_(most) {
  FM_CHECK(cost.dim() == 2 && cost.size(1) == anchors_ && anchors_ >= 2,
           "a cost matrix is square with two anchors or more, not ", cost.sizes());
  FM_CHECK_USAGE(most >= 1, "steps: at least 1, not ", most);
  const at::Tensor c = cost.to(at::kCPU, at::kDouble).contiguous();
  const double* const data = c.const_data_ptr<double>();
  const auto at = [&](int64_t i, int64_t j) { return data[i * anchors_ + j]; };
  for (int64_t i = 0; i < anchors_; ++i)
    for (int64_t j = i + 1; j < anchors_; ++j)
      FM_CHECK(!std::isnan(at(i, j)), "the cost of the step from anchor ", i, " to ", j,
               " is NaN");
  const auto size = static_cast<std::size_t>(anchors_ * most_);
  cost_.assign(size, std::numeric_limits<double>::infinity());
  next_.assign(size, -1);
  const int64_t last = anchors_ - 1;
  for (int64_t i = 0; i < last; ++i) {
    cost_[place(i, 1)] = at(i, last);
    if (std::isfinite(at(i, last))) next_[place(i, 1)] = last;
  }
  for (int64_t k = 2; k <= most_; ++k)
    for (int64_t i = 0; i < last; ++i) {
      double best = std::numeric_limits<double>::infinity();
      int64_t argmin = -1;
      for (int64_t j = i + 1; j < last; ++j) {
        const double total = at(i, j) + discount * cost_[place(j, k - 1)];
        if (total < best) {
          best = total;
          argmin = j;
        }
      }
      cost_[place(i, k)] = best;
      next_[place(i, k)] = argmin;
    }
}

std::size_t BellmanTable::place(int64_t i, int64_t k) const {
  return static_cast<std::size_t>(i * most_ + k - 1);
}

double BellmanTable::cost(int64_t i, int64_t k) const { return cost_[place(i, k)]; }
int64_t BellmanTable::next(int64_t i, int64_t k) const { return next_[place(i, k)]; }
bool BellmanTable::feasible(int64_t k) const {
  return k >= 1 && k <= most_ && next(0, k) >= 0;
}

std::vector<int64_t> BellmanTable::path(int64_t k) const {
  FM_CHECK_USAGE(feasible(k), "no path of ", k, " steps: ", anchors_,
                 " anchors allow 1 to ", std::min(most_, anchors_ - 1));
  std::vector<int64_t> path{0};
  for (int64_t left = k; left >= 1; --left) path.push_back(next(path.back(), left));
  return path;
}

}  // namespace flowmap::samplers
