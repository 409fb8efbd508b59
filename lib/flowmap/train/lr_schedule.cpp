#include "flowmap/train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace flowmap {

double LrSchedule::at(int64_t images) const {
  double lr = base;
  const double done = static_cast<double>(images);
  switch (rule) {
    case Rule::constant: break;
    case Rule::cosine:
    case Rule::linear: {
      const double length = static_cast<double>(std::max<int64_t>(duration - start, 1));
      const double p = std::clamp((done - static_cast<double>(start)) / length, 0.0, 1.0);
      const double fall = rule == Rule::linear
                              ? 1 - p
                              : 0.5 * (1 + std::cos(std::numbers::pi * p));
      lr *= final_fraction + (1 - final_fraction) * fall;
      break;
    }
    case Rule::inverse_sqrt:
      if (start > 0) lr /= std::sqrt(std::max(done / static_cast<double>(start), 1.0));
      break;
  }
  if (rampup > 0) lr *= std::min(done / static_cast<double>(rampup), 1.0);
  return lr;
}

LrSchedule read_lr_schedule(const Config& trainer, int64_t duration) {
  LrSchedule schedule;
  schedule.base = trainer.number("lr", 1e-3, 0, 10);
  schedule.rampup = trainer.count("lr_rampup", 0, 0);
  const std::vector<std::string> rules = {"constant", "cosine", "linear",
                                          "inverse_sqrt"};
  const std::string rule = trainer.choice("lr_schedule", rules, "constant");
  schedule.duration = duration;
  if (rule == "constant") return schedule;
  schedule.rule = rule == "cosine"   ? LrSchedule::Rule::cosine
                  : rule == "linear" ? LrSchedule::Rule::linear
                                     : LrSchedule::Rule::inverse_sqrt;
  schedule.start = trainer.count("lr_decay_start", 0, 0);
  if (schedule.rule != LrSchedule::Rule::inverse_sqrt)
    schedule.final_fraction = trainer.number("lr_final_fraction", 0, 0, 1);
  return schedule;
}

}  // namespace flowmap
