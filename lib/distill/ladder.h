// Rounds in which a student becomes the teacher of the next round.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "flowmap/train/task.h"

namespace flowmap::distill {

// `rounds` equal parts of a run of `duration` images. In round 0 the teacher is another; from
// round 1 on it is the student's average (its first profile) as the round before left it.
class Ladder {
 public:
  Ladder() = default;
  Ladder(int64_t rounds, int64_t duration) : rounds_(rounds), duration_(duration) {}

  // 0 ... rounds - 1.
  int64_t round(const Clock& clock) const;
  // The teacher of this step's round, null in round 0; `student` is the player "model".
  Model* rung(const Player& student, const StepContext& step);
  // Names "round" and "rung.PARAMETER"; empty before round 1.
  std::map<std::string, at::Tensor> state() const;
  void load_state(const Player& student, const std::map<std::string, at::Tensor>& state);

 private:
  int64_t rounds_ = 1, duration_ = 0;
  std::shared_ptr<Model> rung_;
  int64_t rung_round_ = 0;
};

}  // namespace flowmap::distill
