#include "samplers/boss/student_states.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "flowmap/base/error.h"
#include "samplers/ode.h"

namespace flowmap::samplers {

StudentSchedules student_state_search(Model& model, const Condition& condition,
                                      const Schedule& anchors, const TeacherPath& path,
                                      at::IntArrayRef shape, int64_t most, bool shared) {
  const at::NoGradGuard no_grad;
  const int64_t steps = path.steps(), batch = path.states.size(1);
  FM_CHECK_USAGE(most >= 1 && most <= steps, "steps: 1 to ", steps, ", not ", most);
  std::vector<int64_t> whole{batch};
  whole.insert(whole.end(), shape.begin(), shape.end());
  Ode ode(model, condition, anchors, path.states[0].reshape(whole));
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto options = path.states.options();
  at::Tensor held = at::zeros_like(path.states);
  held[0].copy_(path.states[0]);
  StudentSchedules found;
  found.anchors.resize(static_cast<std::size_t>(most));
  std::vector<at::Tensor> previous, errors;  // int64 [T+1, B] a number of steps
  for (int64_t k = 1; k <= most; ++k) {
    at::Tensor best = at::full({steps + 1, batch}, kInfinity, options);
    at::Tensor from = at::full({steps + 1, batch}, -1, options.dtype(at::kLong));
    at::Tensor next = at::zeros_like(held);
    // After k-1 steps only anchors k-1 ... can be stood on, and anchor 0 only at first.
    const int64_t furthest = k == 1 ? 0 : steps - 1;
    for (int64_t i = k - 1; i <= furthest; ++i) {
      const double at = anchors.times[static_cast<std::size_t>(i)];
      const at::Tensor slope = ode.slope(held[i].reshape(whole), at).reshape(held[i].sizes());
      for (int64_t j = i + 1; j <= steps; ++j) {
        const double h = anchors.times[static_cast<std::size_t>(j)] - at;
        const at::Tensor candidate = held[i] + h * slope;
        at::Tensor distance = (candidate - path.states[j]).square().mean(1);  // [B]
        if (shared) distance = distance.mean().expand({batch});
        const at::Tensor better = distance < best[j];
        best[j].copy_(at::where(better, distance, best[j]));
        from[j].masked_fill_(better, i);
        next[j].copy_(at::where(better.unsqueeze(1), candidate, next[j]));
      }
    }
    held = next;
    previous.push_back(from.to(at::kCPU));
    errors.push_back(best[steps].to(at::kCPU));
    auto& schedules = found.anchors[static_cast<std::size_t>(k - 1)];
    for (int64_t b = 0; b < (shared ? 1 : batch); ++b) {
      std::vector<int64_t> knots{steps};
      for (int64_t left = k; left >= 1; --left)
        knots.push_back(previous[static_cast<std::size_t>(left - 1)][knots.back()][b]
                            .item<int64_t>());
      std::reverse(knots.begin(), knots.end());
      schedules.push_back(std::move(knots));
    }
  }
  found.error = at::stack(errors);
  if (shared) found.error = found.error.narrow(1, 0, 1);
  return found;
}

std::vector<int64_t> StudentSchedules::median(int64_t k) const {
  const auto& all = anchors.at(static_cast<std::size_t>(k - 1));
  const int64_t last = all.front().back();
  std::vector<int64_t> middle;
  for (int64_t knot = 0; knot <= k; ++knot) {
    std::vector<int64_t> values;
    for (const auto& schedule : all)
      values.push_back(schedule[static_cast<std::size_t>(knot)]);
    std::sort(values.begin(), values.end());
    const std::size_t half = values.size() / 2;
    const double value =
        values.size() % 2 ? static_cast<double>(values[half])
                          : 0.5 * static_cast<double>(values[half - 1] + values[half]);
    // Rising, with room for the knots that follow.
    const int64_t least = knot == 0 ? 0 : middle.back() + 1;
    middle.push_back(std::clamp(std::llround(value), static_cast<long long>(least),
                                static_cast<long long>(last - (k - knot))));
  }
  return middle;
}

at::Tensor chord_deviation_costs(const TeacherPath& path) {
  const at::NoGradGuard no_grad;
  const int64_t steps = path.steps();
  const at::Tensor start = path.states[0];
  const at::Tensor chord = path.states[steps] - start;
  const at::Tensor direction = chord / chord.norm(2, {1}, true).clamp_min(1e-300);
  const auto distance = [&](const at::Tensor& x) {  // [B]
    const at::Tensor offset = x - start;
    return (offset - (offset * direction).sum(1, true) * direction).norm(2, {1});
  };
  std::vector<at::Tensor> of_teacher;
  for (int64_t j = 0; j <= steps; ++j) of_teacher.push_back(distance(path.states[j]));
  at::Tensor cost = at::zeros({steps + 1, steps + 1}, at::kDouble);
  for (int64_t i = 0; i < steps; ++i) {
    const at::Tensor slope = path.slope(i);
    for (int64_t j = i + 1; j <= steps; ++j) {
      const double h = path.anchors[static_cast<std::size_t>(j)] -
                       path.anchors[static_cast<std::size_t>(i)];
      cost[i][j] = (distance(path.states[i] + h * slope) -
                    of_teacher[static_cast<std::size_t>(j)]).mean().to(at::kCPU);
    }
  }
  return cost;
}

}  // namespace flowmap::samplers
