// The learning rate as a function of the images seen.
#pragma once

#include <cstdint>

#include "flowmap/base/config.h"

namespace flowmap {

struct LrSchedule {
  enum class Rule {
    constant,
    cosine,        // from `start` images to `duration`, down to final_fraction
    linear,        // the same, straight
    inverse_sqrt,  // base / sqrt(max(images / start, 1)) (EDM2; flow maps)
  };
  Rule rule = Rule::constant;
  double base = 1e-3;
  int64_t rampup = 0;          // images of linear warm-up from 0 (EDM)
  int64_t start = 0;           // images at which the decay begins
  int64_t duration = 0;        // images of the whole run
  double final_fraction = 0;   // cosine and linear end at base * final_fraction

  // At `images` seen before the step.
  double at(int64_t images) const;
};

// Reads "lr" (the base), "lr_rampup", "lr_schedule", "lr_decay_start",
// "lr_final_fraction" of the trainer's configuration.
LrSchedule read_lr_schedule(const Config& trainer, int64_t duration);

}  // namespace flowmap
