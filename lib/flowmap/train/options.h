// Settings of the training loop: the "trainer" object of a configuration.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/precision.h"
#include "flowmap/train/ema.h"
#include "flowmap/train/lr_schedule.h"
#include "flowmap/train/optimizer.h"

namespace flowmap {

struct TrainOptions {
  int64_t duration = 0;   // images
  int64_t batch = 0;      // images of one optimiser step
  int64_t batch_gpu = 0;  // images of one micro-batch; accumulation is derived
  int64_t tick = 0;       // images between status lines
  int64_t snap = 0;       // ticks between snapshots, 0: only at the end
  int64_t dump = 0;       // ticks between training states, 0: only at the end
  int64_t keep = 0;       // newest training states kept, 0: all
  uint64_t seed = 0;
  bool xflip = false;     // horizontal flips of images, half of the samples
  double augment = 0;     // probability of each transform of data/augment.h, 0: none
  double clip = 0;        // limit of the global gradient norm, 0: none
  int64_t max_bad_steps = 0;  // steps whose gradient is not finite before the run stops
  int threads = 0;        // 0: LibTorch's default
  Precision precision;
  bool gradient_checkpointing = false;  // less memory, about a third more time
  bool channels_last = false;           // memory order of images and their weights
  std::string device;     // "cpu", "cuda", "cuda:1"
  OptimizerOptions optimizer;
  LrSchedule lr;
  std::vector<EmaProfile> ema;
};

// "duration" of config "trainer", in images.
int64_t read_duration(const Config& trainer);
// Reads config "trainer". Throws UsageError.
TrainOptions read_train_options(const Config& config);

}  // namespace flowmap
