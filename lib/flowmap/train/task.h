// What the one training loop asks of a method (lib/distill implements it).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/data/dataset.h"
#include "flowmap/draw.h"
#include "flowmap/model.h"

namespace flowmap {

class Lora;

// A network that takes part in training.
struct Player {
  std::string name;              // "model", "teacher", "fake", ...
  std::shared_ptr<Model> model;
  std::string spec_json;         // what make_model was given; goes into snapshots
  bool trained = false;          // has an optimiser and EMA profiles
  // What is trained instead of the weights (nn/lora.h): optimiser, averages and training
  // states are of its factors; snapshots are whole.
  std::shared_ptr<Lora> lora = {};
};

// Which data a method wants. `pairs`: samples with the noise that they were made from, out
// of data sets whose DatasetInfo::pairs is set.
enum class Stream { samples, pairs, labels_only, none };

// One micro-batch: b rows of the global batch.
struct Batch {
  at::Tensor x;       // samples as the network sees them, [b, sample...], float32
  // Stream::pairs: the unit normals that x was made from, [b, sample...], float32, flipped
  // together with x. Undefined for other streams.
  at::Tensor noise;
  at::Tensor labels;  // [b, label_dim] or undefined
  at::Tensor index;   // int64 [b], which samples these are
  // [b, 9], what data/augment.h did to x; undefined without augmentation.
  at::Tensor augment_labels;
};

// One update of one player: its name, and how many optimiser steps it gets in a row.
struct Turn {
  std::string player;
  int64_t steps = 1;
};

struct Clock {
  int64_t images_seen = 0;  // before this step
  int64_t step = 0;         // optimiser steps done
};

// Where a micro-batch stands in its step.
struct StepContext {
  Clock clock;
  const Draw& draw;          // one row a sample; streams are the method's to name
  int64_t global_batch = 0;  // samples of the whole step, all ranks
  int64_t first_row = 0;     // position of the micro-batch's first row in it
  // A frozen copy of a trained player under its i-th EMA profile, as of this step: the next
  // one changes it.
  std::function<std::shared_ptr<Model>(const std::string& player, int profile)> ema;
  bool gradient_checkpointing = false;

  // For evaluations whose gradients are wanted: dropout on, masks out of `rows`, which
  // must live as long as it is used.
  Context training_context(const Draw& rows) const {
    Context context = plain_context();
    context.train = true;
    context.draw = &rows;
    return context;
  }
  // The same function, dropout off.
  Context plain_context() const {
    Context context;
    context.gradient_checkpointing = gradient_checkpointing;
    return context;
  }
};

struct LossResult {
  // Scalar: this micro-batch's share, so that shares over the whole step add up to the
  // objective (a mean over the global batch).
  at::Tensor loss;
  // Named values for stats.jsonl, detached, one a sample or fewer: num, mean, std are
  // taken over the tick. "Loss/loss" is expected.
  std::vector<std::pair<std::string, at::Tensor>> stats;
};

class Task {
 public:
  virtual ~Task() = default;
  virtual std::vector<Player>& players() = 0;
  virtual Stream stream() const { return Stream::samples; }
  virtual std::vector<Turn> turns(const Clock&) { return {{"model", 1}}; }
  virtual LossResult loss(const Turn& turn, const Batch& batch,
                          const StepContext& step) = 0;
  // State beyond weights (ratio bins, phases), saved with the run and given back.
  virtual std::map<std::string, at::Tensor> state() const { return {}; }
  virtual void load_state(const std::map<std::string, at::Tensor>&) {}
  // JSON object text for the snapshot: {"method": ..., "default_sampler": ...,
  // "default_steps": ...}; and what else MethodDefaults (snapshot.h) has.
  virtual std::string snapshot_info() const = 0;
};

}  // namespace flowmap
