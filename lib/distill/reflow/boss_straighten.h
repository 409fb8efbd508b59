// Straightening on the knots of a schedule (BOSS, Nguyen et al. 2024, arXiv 2312.16414,
// phase 2): between two knots the student's velocity at the first becomes the slope of the
// teacher's chord, so that as many Euler steps as there are segments land where the
// teacher's fine walk does.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "distill/flow_map/teacher.h"
#include "flowmap/model.h"

namespace flowmap::distill {

// A teacher's fine grid with the schedule's knots on it.
struct SegmentGrid {
  std::vector<double> times;   // rising, 0 ... 1
  std::vector<int64_t> knots;  // positions in times, the first 0, the last times.size() - 1
  bool heun = false;           // the teacher's solver; Euler otherwise

  int64_t segments() const { return static_cast<int64_t>(knots.size()) - 1; }
  double knot(int64_t k) const;
  double length(int64_t k) const { return knot(k + 1) - knot(k); }
};

// `anchors` with the knots that are not among them, each interval in `substeps` equal parts.
// Throws UsageError naming `where` unless knots rise from 0 to 1.
SegmentGrid segment_grid(std::vector<double> anchors, const std::vector<double>& knots,
                         int64_t substeps, bool heun, const std::string& where);

// Both [K, G, sample...], float64: where each segment starts and the slope of its chord.
struct Segments {
  at::Tensor starts, slopes;
};

// ONE walk of the teacher over the whole grid gives all K segments of a path: times.size()
// - 1 evaluations a path (twice that for heun), so T / K a training row where the K rows of
// a group share a path; walks of their own would take about (K + 1) T / (2 K) a row.
//
// start: x at time 0, [G, sample...]. Rows in `of_student` (bool [G], may be undefined) take
// the states that `student` itself reaches by its Euler steps on the knots, and the teacher
// goes on from each of them (DAgger: Ross et al. 2011, arXiv 1011.0686): K - 1 evaluations of
// the student more, none of the teacher. No gradients. `guidance` is the teacher's, 1: none.
Segments teacher_segments(const Teacher& teacher, const at::Tensor& start,
                          const Condition& condition, double guidance,
                          const SegmentGrid& grid, Model* student,
                          const at::Tensor& of_student, Context& context);

}  // namespace flowmap::distill
