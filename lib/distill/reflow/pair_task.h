// What the methods share that learn from pairs of noise and sample.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "distill/method.h"

namespace flowmap::distill {

// Now and then, the paths of the student from the noise of the first rows of a step.
struct PathProbe {
  int64_t every = 0;  // images between probes, the first before training; 0: none
  int64_t rows = 0, steps = 0;

  bool due(const StepContext& step) const;
  // Adds "Paths/straightness" (a sum over dimensions), "Paths/straightness_per_pixel",
  // "Paths/straightness_norm" (samplers/euler_paths.h), "Paths/pair_error" and, by quarters
  // of the time, "Paths/curvature_1" ... "_4" for the probed rows of this micro-batch.
  void measure(Model& student, const Batch& batch, const Condition& condition,
               const StepContext& step, LossResult& result) const;
};
// "probe": {"every" (images, kimg where no unit is given), "rows", "steps"}.
PathProbe read_path_probe(const Config& method);

class PairTask : public Task {
 public:
  std::vector<Player>& players() override { return players_; }
  Stream stream() const override { return Stream::pairs; }
  std::string snapshot_info() const override;

 protected:
  // Options "label_dropout", "probe". Throws UsageError where the student is no velocity on
  // the linear interpolant.
  PairTask(const BuildContext& context, std::string name, int64_t default_steps);

  Model& student() { return *players_[0].model; }
  // The frozen network of method.teacher ("teacher_options"), player "teacher"; required.
  Model& add_teacher(const BuildContext& context);
  Condition condition_of(const Batch& batch, const StepContext& step) const;
  // b n.
  at::Tensor start(const at::Tensor& noise) const;
  // The mean of `raw` [b] over the whole step, with the statistics that all methods have.
  LossResult finish(const at::Tensor& raw, const Batch& batch, const Condition& condition,
                    const StepContext& step);

 private:
  std::string name_;
  int64_t default_steps_;
  double label_dropout_ = 0;
  PathProbe probe_;
  std::vector<Player> players_;
};

// Throws UsageError unless the model is a velocity of one time on the linear interpolant.
void require_linear_velocity(const ModelInfo& info, const std::string& method);

}  // namespace flowmap::distill
