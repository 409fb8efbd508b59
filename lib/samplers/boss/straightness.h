// How straight a model's trajectories are.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "samplers/boss/teacher.h"

namespace flowmap::samplers {

// Of paths in our clock Z_t, t from 0 to 1, with the slopes between the anchors; means over
// samples and time. Straight paths give 0.
struct Straightness {
  double squared = 0;    // E integral |(Z_1 - Z_0) - Z'_t|^2 dt (Liu et al. 2022)
  double norm = 0;       // the same without the square, as SlimFlow's programs print it
  double per_pixel = 0;  // squared over the number of elements, as rfpp's programs print it
  // Curvature |Z''_t| by time, at the anchors between: the change of the slope over the
  // time between the middles of both steps, root mean square over samples and elements.
  std::vector<double> curvature_times, curvature;
};

// Sums over the samples of paths, added batch by batch. States of denoisers, x_sigma, are
// taken to our clock first: Z_t = t x_sigma, t = 1/(1 + sigma/b); for them time starts at
// the highest noise level instead of 0.
class StraightnessSums {
 public:
  explicit StraightnessSums(const ModelInfo& info) : info_(info) {}
  void add(const TeacherPath& path);
  Straightness result() const;

 private:
  ModelInfo info_;
  int64_t samples_ = 0, elements_ = 0;
  double squared_ = 0, norm_ = 0;
  std::vector<double> times_, bend_;
};

}  // namespace flowmap::samplers
