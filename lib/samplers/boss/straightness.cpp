#include "samplers/boss/straightness.h"

#include <ATen/ATen.h>

#include <cmath>

#include "flowmap/base/error.h"
#include "samplers/boss/anchors.h"

namespace flowmap::samplers {

void StraightnessSums::add(const TeacherPath& path) {
  const at::NoGradGuard no_grad;
  const int64_t steps = path.steps();
  Schedule grid;
  grid.times = path.anchors;
  grid.sigma = info_.kind == ModelKind::denoiser;
  const std::vector<double> t = times_of(info_, grid);
  const auto at = [&](int64_t i) { return t[static_cast<std::size_t>(i)]; };
  const auto state = [&](int64_t i) {
    return grid.sigma ? at(i) * path.states[i] : path.states[i];
  };
  FM_CHECK(times_.empty() || static_cast<int64_t>(times_.size()) == steps - 1,
           "paths on different anchors");
  const double span = t.back() - t.front();
  const at::Tensor chord = (state(steps) - state(0)) / span;
  bend_.resize(static_cast<std::size_t>(steps - 1), 0);
  times_.assign(bend_.size(), 0);
  at::Tensor before;
  for (int64_t i = 0; i < steps; ++i) {
    const double h = at(i + 1) - at(i);
    const at::Tensor slope = (state(i + 1) - state(i)) / h;
    const at::Tensor off = (slope - chord).square().sum(1);  // [B]
    squared_ += off.sum().item<double>() * h / span;
    norm_ += off.sqrt().sum().item<double>() * h / span;
    if (i > 0) {
      const auto k = static_cast<std::size_t>(i - 1);
      times_[k] = at(i);
      const double apart = 0.5 * (at(i + 1) - at(i - 1));
      bend_[k] += ((slope - before) / apart).square().sum().item<double>();
    }
    before = slope;
  }
  samples_ += path.states.size(1);
  elements_ = path.states.size(2);
}

Straightness StraightnessSums::result() const {
  FM_CHECK(samples_ > 0, "straightness of no samples");
  const auto n = static_cast<double>(samples_);
  Straightness s;
  s.squared = squared_ / n;
  s.norm = norm_ / n;
  s.per_pixel = s.squared / static_cast<double>(elements_);
  s.curvature_times = times_;
  for (const double bend : bend_)
    s.curvature.push_back(std::sqrt(bend / (n * static_cast<double>(elements_))));
  return s;
}

}  // namespace flowmap::samplers
