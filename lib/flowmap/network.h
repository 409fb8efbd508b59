// Raw networks: tensors in, tensors out. What the output means is the Model's business.
#pragma once

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/draw.h"
#include "flowmap/dual.h"

namespace flowmap {

// What an evaluation is conditioned on. Undefined tensors mean "not given".
struct Condition {
  // [B, label_dim], one-hot or soft; a zero row means no class, which the network maps to
  // its own null.
  at::Tensor class_labels;
  // [B, augment_dim]
  at::Tensor augment_labels;
  // [B], guidance scale as an input
  at::Tensor guidance;

  // Rows picked by position (int64 [n]).
  Condition select(const at::Tensor& rows) const;
};

// How an evaluation is carried out.
struct Context {
  // Dropout is on when `train` is set and `draw` is given; masks are drawn by layer name
  // from it, so that the same context replays the same masks.
  bool train = false;
  const Draw* draw = nullptr;
  // Blocks keep their inputs only and are computed again for gradients: less memory for
  // about a third more time (nn/gradient_checkpointing.h).
  bool gradient_checkpointing = false;
  // When given, networks store named feature maps here (discriminators, detectors).
  std::map<std::string, at::Tensor>* taps = nullptr;
};

// Shape of what goes in and out of a network.
struct NetworkShape {
  std::vector<int64_t> sample;  // {C, H, W}, or {d} for points
  int64_t label_dim = 0;
  int64_t times = 1;            // 1, or 2 for flow maps
  int64_t out_channels = 0;     // 0: as the input
  // Whether Condition::guidance [B] is an input; undefined, it stands for 1. Otherwise one
  // that is given is refused. Nothing depends on it in a network that has not been trained.
  bool guidance = false;
};

class Network : public torch::nn::Module {
 public:
  // x [B, sample...]; time [B] (already scaled by the Model); time2 [B] or undefined for
  // one-time networks. Returns [B, out...].
  virtual Dual forward(const Dual& x, const Dual& time, const Dual& time2,
                       const Condition& condition, Context& context) = 0;
  // Forced weight normalisation (EDM2), called at the start of each optimiser step, before
  // the loss: gradients are those at the normalised weights, averages are of the weights
  // as the optimiser leaves them.
  virtual void project() {}
  // What time2 means: t - s when true, t itself otherwise.
  virtual bool second_time_is_gap() const { return false; }
  // What times in [0, 1] are multiplied by before they come here, unless the user says
  // otherwise: 16 suits positional embeddings (highest frequency 1 rad per unit).
  virtual double default_time_scale() const { return 16; }
  // Multiply-adds of one forward for one sample, convolutions and matrix products only.
  virtual double multiply_adds() const = 0;
};

// A row of the network registry (lib/flowmap/nn/registry.cpp).
struct NetworkEntry {
  const char* name;
  const char* summary;
  const char* paper;
  std::shared_ptr<Network> (*make)(const Config& options, const NetworkShape& shape);
};
const std::vector<NetworkEntry>& network_registry();

// Builds the network that options.type names, with freshly initialised weights drawn from
// `seed`. Throws UsageError on unknown types and options.
std::shared_ptr<Network> make_network(const Config& options, const NetworkShape& shape);

}  // namespace flowmap
