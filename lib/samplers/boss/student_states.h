// Schedules by other searches, to compare with: the student's own states (OSS), and the
// distance from the chord (GITS).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "samplers/boss/teacher.h"

namespace flowmap::samplers {

struct StudentSchedules {
  // [k-1][b]: the k + 1 anchors of sample b; with `shared`, of the whole batch (b = 0).
  std::vector<std::vector<std::vector<int64_t>>> anchors;
  // [most, B] (or [most, 1]): mean squared distance of the student's last state from the
  // teacher's.
  at::Tensor error;

  // One schedule of k steps out of all samples': the medians of their anchors, rounded,
  // moved apart where they meet.
  std::vector<int64_t> median(int64_t k) const;
};

// Optimal stepsize schedules (Pei et al. 2025, arXiv 2503.21774) for 1 to `most` Euler
// steps: the state that the student itself has at anchor j after k steps is the one out of
// all its predecessors nearest to the teacher's state there. Every schedule begins at
// anchor 0 and takes exactly k steps. `shared`: predecessors are chosen for the batch's
// mean, so that all samples have one schedule. At most `most` T evaluations a sample.
StudentSchedules student_state_search(Model& model, const Condition& condition,
                                      const Schedule& anchors, const TeacherPath& path,
                                      at::IntArrayRef shape, int64_t most, bool shared);

// Cost of an Euler step as GITS has it (Chen et al. 2024, arXiv 2405.11326): the mean over
// samples of dist(x_i + h v_i) - dist(x_j), dist the distance from the straight line through
// both ends of the sample's trajectory; below 0 where the step cuts a corner, as in the
// authors' program. [T+1, T+1]. Its search weighs what comes later by kGitsDiscount
// (BellmanTable's discount).
at::Tensor chord_deviation_costs(const TeacherPath& path);
inline constexpr double kGitsDiscount = 1.15;

}  // namespace flowmap::samplers
