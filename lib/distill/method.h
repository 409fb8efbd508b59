// A training method: builds its players from a configuration and gives losses. A new
// method is one .cpp beside this header and one line in registry.cpp.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/train/task.h"

namespace flowmap::distill {

struct BuildContext {
  // The whole configuration: "method" holds the method's options, "network",
  // "preconditioning" the student's, "method.teacher" weights to learn from, "transfer"
  // weights to start from; "method.teacher_options" and "transfer_options" say how to read
  // those (weight_options.h).
  const Config& config;
  DatasetInfo data;
  std::uint64_t seed = 0;
  // false: weights are about to come from a training state. With "lora" only the factors
  // will, and the file is read all the same.
  bool load_transfer = true;
};

struct MethodEntry {
  const char* name;     // "flow_matching", "edm", "lsd", "classifier"
  const char* summary;
  const char* paper;
  std::shared_ptr<Task> (*make)(const BuildContext& context);
};
const std::vector<MethodEntry>& method_registry();

// Builds the method that config "method.type" names. Throws UsageError.
std::shared_ptr<Task> make_method(const BuildContext& context);

// The player "model" of the configuration: network + preconditioning for the data's
// shape, weights from the seed, then from "transfer" if given. Logs how much of that file
// was of use, and warns where its preconditioning is another; throws UsageError where it
// fills fewer than half of the parameter tensors. With "lora" (nn/lora.h) the player trains
// an adapter of the "transfer" network.
Player make_student(const BuildContext& context);

// The frozen network that method.teacher names, for a student like this one. Throws
// UsageError where it is missing or does not fit.
Player read_frozen_teacher(const BuildContext& context, const std::string& method,
                           const ModelInfo& student);

}  // namespace flowmap::distill
