// What one step of a solver between two anchors costs, averaged over teacher trajectories:
// the objective of BOSS (Nguyen et al. 2024, arXiv 2312.16414), and the same errors carried
// to the end of the trajectory (sensitivity.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "samplers/boss/teacher.h"

namespace flowmap::samplers {

// The error of one step from anchor i of a teacher's path to anchor j is
//   e(i,j) = x_j - step(x_i; t_i, t_j),   Euler: step = x_i + (t_j - t_i) v_i,
// with the teacher's own states x and slopes v. Sums over samples of |e|^2 (all elements),
// |e|, and of |J_j e|^2, J_j the derivative of the path's end by its state at anchor j.
class CostSums {
 public:
  CostSums() = default;
  // scale [T+1] multiplies e(i,j) by scale[j] in |e|^2 and |e|: the time t_j for denoisers,
  // whose states x_t / t would let the noisiest anchors decide. Empty: 1.
  explicit CostSums(std::vector<double> anchors, std::vector<double> scale = {});

  // Euler steps of every sample of a path, by inner products: with
  // G_ab = <x_a, x_b> of the states less the chord between both ends (which no cost
  // notices, and whose size would cost digits), an Euler teacher and r = (t_j-t_i)/(t_{i+1}
  // -t_i),
  //   |e|^2 = G_jj + (1-r)^2 G_ii + r^2 G_{i+1,i+1} - 2(1-r) G_ij - 2r G_{i+1,j}
  //           + 2r(1-r) G_{i,i+1}.
  // One symmetric rank-d update of [T+1, T+1] a sample in float64; no slope is needed. A
  // path with slopes adds them as further rows. Costs below 0 by rounding become 0.
  void add_euler_steps(const TeacherPath& path);

  // One sample's costs, already summed over its elements: |e|^2 [T+1, T+1].
  void add_sample(const at::Tensor& squared);
  // Sums over the samples of a batch of |J_j e|^2, [T+1, T+1]; as many samples as the costs.
  void add_carried(const at::Tensor& carried);

  // Means over samples, float64 [T+1, T+1], 0 below the diagonal. plain: E|e|^2 for power
  // 2, E|e| for power 1. carried: E|J e|^2 for power 2, and its root for power 1: the root
  // mean square error at the end that the step alone causes. The sum of power-1 costs
  // bounds the end error of a path to first order (Minkowski).
  at::Tensor plain(int power) const;
  at::Tensor carried(int power) const;

  // Adds the sums of other samples. Throws UsageError where the anchors differ.
  void merge(const CostSums& other);

  const std::vector<double>& anchors() const { return anchors_; }
  const std::vector<double>& scale() const { return scale_; }
  int64_t steps() const { return static_cast<int64_t>(anchors_.size()) - 1; }
  int64_t samples() const { return samples_; }
  bool has_carried() const { return carried_.defined(); }
  // The sums as they are stored (cost_file.h).
  const at::Tensor& squared_sum() const { return squared_; }
  const at::Tensor& norm_sum() const { return norm_; }
  const at::Tensor& carried_sum() const { return carried_; }
  static CostSums from_sums(std::vector<double> anchors, std::vector<double> scale,
                            int64_t samples, at::Tensor squared, at::Tensor norm,
                            at::Tensor carried);

 private:
  std::vector<double> anchors_, scale_;
  int64_t samples_ = 0;
  at::Tensor squared_, norm_, carried_;
};

// G = X X^T of rows [n, d], float64; only blocks on and above the diagonal are multiplied.
at::Tensor symmetric_product(const at::Tensor& rows);

}  // namespace flowmap::samplers
