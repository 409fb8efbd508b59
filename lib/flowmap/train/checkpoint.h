// Training states: everything that a run needs to go on to the byte.
//
// training-state-{kimg}/ holds weights, optimiser moments and averages as safetensors and
// state.json with the clock. The folder is filled under a hidden name and renamed, so one
// that is there is complete.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "flowmap/train/task.h"

namespace flowmap {

struct Checkpoint {
  Clock clock;
  int64_t bad_steps = 0;
  double training_seconds = 0;  // wall time spent so far, for the tick line
  // File stem -> tensors: "weights", "optimizer-model", "ema-model-0", "task".
  std::map<std::string, std::map<std::string, at::Tensor>> parts;
};

// Writes RUN/training-state-{kimg}; replaces one of the same name in one step.
std::filesystem::path save_checkpoint(const std::filesystem::path& run,
                                      const Checkpoint& checkpoint);
// Throws DataError naming the file that is wrong.
Checkpoint load_checkpoint(const std::filesystem::path& folder);
// Images seen by a complete state folder; nothing if it is not one.
std::optional<int64_t> checkpoint_images(const std::filesystem::path& folder);
// Removes all but the newest `keep` states of a run (0 keeps all).
void prune_checkpoints(const std::filesystem::path& run, int64_t keep);

}  // namespace flowmap
