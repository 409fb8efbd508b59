#include "distill/ladder.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "flowmap/base/config.h"
#include "flowmap/base/error.h"

namespace flowmap::distill {

int64_t Ladder::round(const Clock& clock) const {
  if (duration_ <= 0) return 0;
  const double progress =
      std::min(1.0, static_cast<double>(clock.images_seen) / static_cast<double>(duration_));
  return std::min(rounds_ - 1,
                  static_cast<int64_t>(progress * static_cast<double>(rounds_)));
}

Model* Ladder::rung(const Player& student, const StepContext& step) {
  const int64_t now = round(step.clock);
  if (now > rung_round_) {
    rung_ = clone_frozen(*step.ema(student.name, 0),
                         Config::from_text(student.spec_json, "spec"));
    rung_round_ = now;
  }
  return rung_.get();
}

std::map<std::string, at::Tensor> Ladder::state() const {
  std::map<std::string, at::Tensor> state;
  if (!rung_) return state;
  state["round"] = at::tensor(rung_round_, at::kLong);
  for (const auto& item : rung_->named_parameters())
    state["rung." + item.key()] = item.value();
  return state;
}

void Ladder::load_state(const Player& student,
                        const std::map<std::string, at::Tensor>& state) {
  const auto round = state.find("round");
  if (round == state.end()) return;
  const at::NoGradGuard no_grad;
  rung_ = clone_frozen(*student.model, Config::from_text(student.spec_json, "spec"));
  rung_round_ = round->second.item<int64_t>();
  for (auto& item : rung_->named_parameters()) {
    const auto found = state.find("rung." + item.key());
    FM_CHECK(found != state.end(), "the training state has no rung.", item.key());
    item.value().copy_(found->second);
  }
}

}  // namespace flowmap::distill
