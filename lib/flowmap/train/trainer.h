// The one training loop. Its clock is the number of images seen; at each step it does, in
// this order: status, snapshot, checkpoint, done?, step. It knows no method by name.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/log.h"
#include "flowmap/data/dataset.h"
#include "flowmap/train/checkpoint.h"
#include "flowmap/train/ema.h"
#include "flowmap/train/optimizer.h"
#include "flowmap/train/options.h"
#include "flowmap/train/stats.h"
#include "flowmap/train/task.h"

namespace flowmap {

// What happens around a snapshot, for the layers above (grids, metrics).
struct SnapshotEvent {
  std::filesystem::path run, snapshot;
  int64_t images_seen = 0;
  std::shared_ptr<Model> model;  // the first EMA profile, frozen
};

struct TrainerHooks {
  std::function<void(const SnapshotEvent&)> on_snapshot;
};

class Trainer {
 public:
  // `resolved_json` goes into training_options.json by the caller; the trainer writes
  // everything else of the run folder. `run` must exist.
  Trainer(TrainOptions options, std::shared_ptr<Task> task,
          std::shared_ptr<Dataset> dataset, std::filesystem::path run,
          TrainerHooks hooks);

  // Continues from a training state. Throws DataError / Error where it does not fit.
  void resume(const std::filesystem::path& state);

  enum class Outcome { finished, interrupted };
  // Runs until the duration is reached or flowmap::interrupted(). Steps whose gradient is
  // not finite are counted and change no weight; Error is thrown at the max_bad_steps-th,
  // and the last state stays on disk.
  Outcome run();

 private:
  struct TrainedPlayer {
    Player* player;
    std::vector<NamedTensor> parameters;
    std::unique_ptr<Optimizer> optimizer;
    std::vector<Ema> averages;
    // What ema_model handed out, and the step it is of.
    struct AverageModel {
      std::shared_ptr<Model> model;
      int64_t step = -1;
    };
    std::map<int, AverageModel> average_models;
  };

  TrainedPlayer& trained(const std::string& name);
  Batch make_batch(const Draw& draw, int64_t first_row, int64_t rows) const;
  void step();
  void step_player(const Turn& turn, const std::string& draw_prefix);
  bool due(int64_t ticks) const;
  void status();
  void save_snapshots();
  void save_state();
  // Refreshed once a step; the same object throughout.
  std::shared_ptr<Model> ema_model(const std::string& player, int profile);
  std::string progress_text() const;

  TrainOptions options_;
  std::shared_ptr<Task> task_;
  std::shared_ptr<Dataset> dataset_;
  DatasetInfo data_info_;
  std::filesystem::path run_;
  TrainerHooks hooks_;
  std::vector<TrainedPlayer> trained_;
  Clock clock_;
  int64_t bad_steps_ = 0;
  int64_t saved_at_ = -1;
  Stats stats_;
  std::unique_ptr<JsonLines> stats_file_;
  double seconds_before_ = 0;  // of earlier sessions of this run
  double started_ = 0, tick_started_ = 0, maintenance_ = 0;
  int64_t session_start_images_ = 0, tick_images_ = 0;
  double last_loss_ = 0;
};

}  // namespace flowmap
