#include "flowmap/train/trainer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/data/augment.h"
#include "flowmap/nn/lora.h"
#include "flowmap/precision.h"
#include "flowmap/train/adapter.h"
#include "flowmap/train/curves.h"
#include "flowmap/train/run_folder.h"
#include "flowmap/train/snapshot.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

// Of a set kept on a GPU, so that it never crowds out the run itself.
constexpr int64_t kMostBytesOfData = int64_t{8} << 30;

double trainer_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double peak_memory_gb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
}

// What the optimiser moves: the weights, or the factors that stand for them.
std::vector<NamedTensor> trained_parameters_of(const Player& player) {
  if (player.lora) return player.lora->factors();
  std::vector<NamedTensor> parameters;
  for (const auto& item : player.model->named_parameters())
    parameters.push_back({item.key(), item.value()});
  return parameters;
}

// Averages in the place of the weights of a copy.
void copy_average(const Player& player, const Ema& average, Model& model) {
  if (player.lora) return player.lora->merge_into(model, average.averages());
  const at::NoGradGuard no_grad;
  auto parameters = model.named_parameters();
  for (const NamedTensor& a : average.averages()) parameters[a.name].copy_(a.tensor);
}

std::shared_ptr<Model> frozen_average(const Player& player, const Ema& average) {
  const Config spec = Config::from_text(player.spec_json, "specification");
  std::shared_ptr<Model> model = clone_frozen(*player.model, spec);
  copy_average(player, average, *model);
  return model;
}

// An adapter's factors are worth nothing on another network.
constexpr const char* kBaseOfFactors = "lora_base";

at::Tensor checksum_bytes(const Lora& lora) {
  const std::string& text = lora.base_checksum();
  at::Tensor bytes = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::copy(text.begin(), text.end(), bytes.data_ptr<uint8_t>());
  return bytes;
}

}  // namespace

Trainer::Trainer(TrainOptions options, std::shared_ptr<Task> task,
                 std::shared_ptr<Dataset> dataset, fs::path run, TrainerHooks hooks)
    : options_(std::move(options)),
      task_(std::move(task)),
      dataset_(std::move(dataset)),
      data_info_(dataset_->info()),
      run_(std::move(run)),
      hooks_(std::move(hooks)) {
  if (const at::Device device(options_.device); !device.is_cpu())
    dataset_->place(device, kMostBytesOfData);
  for (Player& player : task_->players()) {
    player.model->to(at::Device(options_.device));
    if (options_.channels_last) player.model->use_channels_last();
    if (!player.trained) continue;
    if (player.lora) player.lora->to(at::Device(options_.device));
    TrainedPlayer entry{&player, trained_parameters_of(player), nullptr, {}};
    // A factor's gradient comes from Lora::take_gradients.
    if (!player.lora)
      for (const NamedTensor& p : entry.parameters) p.tensor.set_requires_grad(true);
    entry.optimizer = std::make_unique<Optimizer>(options_.optimizer, entry.parameters);
    for (const EmaProfile& profile : options_.ema)
      entry.averages.emplace_back(profile, entry.parameters);
    trained_.push_back(std::move(entry));
  }
  FM_CHECK(!trained_.empty(), "the method trains no network");
}

Trainer::TrainedPlayer& Trainer::trained(const std::string& name) {
  for (TrainedPlayer& entry : trained_)
    if (entry.player->name == name) return entry;
  throw Error("the method asks to train '" + name + "', which is no trained network");
}

void Trainer::resume(const fs::path& state) {
  const Checkpoint checkpoint = load_checkpoint(state);
  const auto part = [&](const std::string& name) -> const auto& {
    const auto found = checkpoint.parts.find(name);
    if (found == checkpoint.parts.end())
      throw DataError(state.string(), {}, "a file " + name + ".safetensors", "none");
    return found->second;
  };
  const at::NoGradGuard no_grad;
  for (TrainedPlayer& entry : trained_) {
    const std::string& name = entry.player->name;
    const auto& weights = part("weights-" + name);
    for (NamedTensor& p : entry.parameters) {
      const auto found = weights.find(p.name);
      FM_CHECK(found != weights.end() && found->second.sizes() == p.tensor.sizes(),
               state.string(), ": '", p.name, "' is missing or has another shape; was ",
               "the network changed since?");
      p.tensor.copy_(found->second);
    }
    if (Lora* lora = entry.player->lora.get()) {
      const auto base = weights.find(kBaseOfFactors);
      FM_CHECK(base != weights.end() && at::equal(base->second, checksum_bytes(*lora)),
               state.string(), ": the adapter there was made for another network than "
               "\"transfer\" holds now; give the file that the run began with");
      lora->merge();
    }
    entry.optimizer->load_state(part("optimizer-" + name));
    for (std::size_t i = 0; i < entry.averages.size(); ++i)
      entry.averages[i].load_state(part("ema-" + name + "-" + std::to_string(i)));
  }
  if (checkpoint.parts.contains("task")) task_->load_state(part("task"));
  clock_ = checkpoint.clock;
  bad_steps_ = checkpoint.bad_steps;
  seconds_before_ = checkpoint.training_seconds;
  saved_at_ = clock_.images_seen;
}

Batch Trainer::make_batch(const Draw& draw, int64_t first_row, int64_t rows) const {
  Batch batch;
  if (task_->stream() == Stream::none) return batch;
  batch.index = at::empty({rows}, at::kLong);
  int64_t* index = batch.index.data_ptr<int64_t>();
  for (int64_t i = 0; i < rows; ++i)
    index[i] = shuffled_index(options_.seed,
                              static_cast<uint64_t>(clock_.images_seen + first_row + i),
                              data_info_.count);
  const at::Device device(options_.device);
  batch.labels = dataset_->labels(batch.index);
  if (batch.labels.defined()) batch.labels = batch.labels.to(device);
  if (task_->stream() == Stream::labels_only) return batch;
  batch.x = samples_to_float(dataset_->samples(batch.index));
  if (task_->stream() == Stream::pairs) {
    batch.noise = dataset_->noise(batch.index);
    FM_CHECK(batch.noise.defined(), data_info_.name, ": the method needs pairs, and these ",
             "samples have no noise");
  }
  if ((options_.xflip || data_info_.flip) && data_info_.images) {
    const at::Tensor coin = draw.uniform("xflip", {}).lt(0.5).reshape({rows, 1, 1, 1});
    // One coin for both: the flip of a pair is a pair, of a half of it is not.
    for (at::Tensor* part : {&batch.x, &batch.noise})
      if (part->defined())
        *part = at::where(coin.to(part->device()), part->flip({3}), *part);
  }
  batch.x = batch.x.to(device);
  if (batch.noise.defined()) batch.noise = batch.noise.to(device);
  if (options_.augment > 0) {
    Augmented augmented = augment(batch.x, options_.augment, draw);
    batch.x = std::move(augmented.images);
    batch.augment_labels = std::move(augmented.labels);
  }
  return batch;
}

void Trainer::step() {
  for (const Turn& turn : task_->turns(clock_))
    for (int64_t i = 0; i < turn.steps; ++i)
      step_player(turn, i == 0 ? turn.player : turn.player + std::to_string(i));
  clock_.images_seen += options_.batch;
  ++clock_.step;
}

void Trainer::step_player(const Turn& turn, const std::string& draw_prefix) {
  TrainedPlayer& entry = trained(turn.player);
  entry.player->model->train();
  Lora* lora = entry.player->lora.get();
  if (!lora) entry.player->model->project();  // an adapter's base stays as it is
  entry.optimizer->zero_grad();
  const at::Device device(options_.device);
  for (int64_t first = 0; first < options_.batch; first += options_.batch_gpu) {
    const auto index = static_cast<uint64_t>(clock_.images_seen + first);
    const Draw rows(options_.seed, index, options_.batch_gpu);
    const Batch batch = make_batch(rows, first, options_.batch_gpu);
    const Draw draw = rows.fork(draw_prefix);
    const StepContext context{clock_, draw, options_.batch, first,
                              [this](const std::string& player, int profile) {
                                return ema_model(player, profile);
                              },
                              options_.gradient_checkpointing};
    LossResult result;
    {
      const PrecisionGuard precision(device.type(), options_.precision);
      result = task_->loss(turn, batch, context);
    }
    result.loss.backward();
    if (lora) lora->take_gradients();
    for (const auto& [name, values] : result.stats) stats_.add(name, values);
  }

  const double norm = gradient_norm(entry.parameters).item<double>();
  if (!std::isfinite(norm)) {
    ++bad_steps_;
    stats_.add("Health/nan_steps", 1.0);
    if (bad_steps_ < options_.max_bad_steps) return;
    status();  // the figures up to here, or they would be lost
    throw Error(format("stopped: the gradient of '%s' was not finite in %lld steps "
                       "(trainer.max_bad_steps); lower trainer.lr, set trainer.clip, or "
                       "use trainer.precision=float32",
                       turn.player.c_str(), static_cast<long long>(bad_steps_)));
  }
  stats_.add("Health/nan_steps", 0.0);
  stats_.add("Health/grad_norm", norm);
  if (options_.clip > 0) clip_gradients(entry.parameters, norm, options_.clip);
  entry.optimizer->step(options_.lr.at(clock_.images_seen));
  if (lora) lora->merge();
  for (Ema& average : entry.averages)
    average.update(entry.parameters, clock_.images_seen, options_.batch, clock_.step);
}

std::shared_ptr<Model> Trainer::ema_model(const std::string& player, int profile) {
  TrainedPlayer& entry = trained(player);
  FM_CHECK(profile >= 0 && static_cast<std::size_t>(profile) < entry.averages.size(),
           "there is no EMA profile ", profile, " of '", player, "'");
  const Ema& average = entry.averages[static_cast<size_t>(profile)];
  TrainedPlayer::AverageModel& held = entry.average_models[profile];
  if (!held.model)
    held.model = frozen_average(*entry.player, average);
  else if (held.step != clock_.step)
    copy_average(*entry.player, average, *held.model);
  held.step = clock_.step;
  return held.model;
}

// True at the first step whose images reach a multiple of `ticks` ticks. From the clock
// alone, so that a resumed run saves at the same moments.
bool Trainer::due(int64_t ticks) const {
  if (ticks == 0) return false;
  const int64_t every = ticks * options_.tick;
  const int64_t before = clock_.images_seen - options_.batch;
  return before < 0 || clock_.images_seen / every != before / every;
}

std::string Trainer::progress_text() const {
  const double session = trainer_now() - started_;
  const int64_t done = clock_.images_seen - session_start_images_;
  const double rate = session > 0 ? static_cast<double>(done) / session : 0;
  const double left = static_cast<double>(options_.duration - clock_.images_seen);
  return format("kimg %.1f/%.1f  loss %.4g  %.0f img/s  ETA %s",
                static_cast<double>(clock_.images_seen) / 1000,
                static_cast<double>(options_.duration) / 1000, last_loss_, rate,
                rate > 0 ? format_duration(left / rate).c_str() : "?");
}

void Trainer::status() {
  const double now = trainer_now();
  const double tick_seconds = now - tick_started_;
  const double total = seconds_before_ + now - started_;
  const double kimg = static_cast<double>(clock_.images_seen) / 1000;
  const double tick_kimg =
      static_cast<double>(clock_.images_seen - tick_images_) / 1000;
  // The line at the end of a run that is no multiple of a tick counts as one more.
  const int64_t tick = clock_.images_seen / options_.tick + (due(1) ? 0 : 1);
  const double per_kimg = tick_kimg > 0 ? tick_seconds / tick_kimg : 0;
  const double rate = tick_seconds > 0 ? tick_kimg * 1000 / tick_seconds : 0;
  stats_.add("Progress/tick", static_cast<double>(tick));
  stats_.add("Progress/kimg", kimg);
  stats_.add("Progress/lr", options_.lr.at(clock_.images_seen));
  stats_.add("Timing/total_sec", total);
  stats_.add("Timing/sec_per_tick", tick_seconds);
  stats_.add("Timing/sec_per_kimg", per_kimg);
  stats_.add("Timing/maintenance_sec", maintenance_);
  stats_.add("Throughput/img_per_sec", rate);
  stats_.add("Resources/cpu_mem_gb", peak_memory_gb());
  const std::string loss = stats_.moments().contains("Loss/loss")
                               ? format("%.4g", stats_.mean("Loss/loss"))
                               : "-";  // before the first step
  log_line(format("tick %-5lld kimg %-9.1f time %-12s sec/tick %-7.1f sec/kimg %-7.2f "
                  "maintenance %-6.1f cpumem %-6.2f loss %-9s img/s %.0f",
                  static_cast<long long>(tick), kimg, format_duration(total).c_str(),
                  tick_seconds, per_kimg, maintenance_, peak_memory_gb(), loss.c_str(),
                  rate));
  stats_file_->append(stats_.json_line(static_cast<double>(std::time(nullptr))));
  stats_.clear();
  maintenance_ = 0;
  tick_started_ = trainer_now();
  tick_images_ = clock_.images_seen;
}

void Trainer::save_snapshots() {
  for (TrainedPlayer& entry : trained_) {
    if (entry.player->name != "model") continue;
    for (std::size_t i = 0; i < entry.averages.size(); ++i) {
      const Ema& average = entry.averages[i];
      const std::shared_ptr<Model> model = frozen_average(*entry.player, average);
      const std::string suffix =
          entry.averages.size() > 1 ? "-" + average.profile().tag() : "";
      const fs::path path = run_ / ("network-snapshot-" + kimg_text(clock_.images_seen) +
                                    suffix + ".safetensors");
      const std::map<std::string, std::string> metadata{
          {"method", task_->snapshot_info()},
          {"ema", average.profile().text()},
          {"images_seen", std::to_string(clock_.images_seen)},
          {"dataset", data_info_.name}};
      save_snapshot(path, *model, entry.player->spec_json, metadata);
      if (entry.player->lora)
        save_adapter(run_ / ("adapter-snapshot-" + kimg_text(clock_.images_seen) + suffix +
                             ".safetensors"),
                     *entry.player->lora, average.averages(), metadata);
      if (i == 0 && hooks_.on_snapshot)
        hooks_.on_snapshot({run_, path, clock_.images_seen, model});
    }
  }
  draw_curves(run_ / "stats.jsonl", run_ / "curves.png");
}

void Trainer::save_state() {
  Checkpoint checkpoint;
  checkpoint.clock = clock_;
  checkpoint.bad_steps = bad_steps_;
  checkpoint.training_seconds = seconds_before_ + trainer_now() - started_;
  for (const TrainedPlayer& entry : trained_) {
    const std::string& name = entry.player->name;
    auto& weights = checkpoint.parts["weights-" + name];
    for (const NamedTensor& p : entry.parameters) weights[p.name] = p.tensor.detach();
    if (entry.player->lora) weights[kBaseOfFactors] = checksum_bytes(*entry.player->lora);
    checkpoint.parts["optimizer-" + name] = entry.optimizer->state();
    for (std::size_t i = 0; i < entry.averages.size(); ++i)
      checkpoint.parts["ema-" + name + "-" + std::to_string(i)] =
          entry.averages[i].state();
  }
  if (auto state = task_->state(); !state.empty()) checkpoint.parts["task"] = state;
  save_checkpoint(run_, checkpoint);
  prune_checkpoints(run_, options_.keep);
  saved_at_ = clock_.images_seen;
}

Trainer::Outcome Trainer::run() {
  if (options_.threads > 0) at::set_num_threads(options_.threads);
  // Backward passes run outside the guard of the losses: see precision.h.
  at::globalContext().setAllowTF32CuDNN(options_.precision.tf32);
  at::globalContext().setAllowTF32CuBLAS(options_.precision.tf32);
  trim_stats(run_ / "stats.jsonl", clock_.images_seen);
  stats_file_ = std::make_unique<JsonLines>(run_ / "stats.jsonl");
  started_ = tick_started_ = trainer_now();
  session_start_images_ = tick_images_ = clock_.images_seen;
  bool first = true;
  LiveLine live;
  for (;;) {
    const bool done = clock_.images_seen >= options_.duration;
    const bool stop = !done && interrupted();
    const bool resumed_here = first && clock_.images_seen > 0;
    if (!resumed_here) {
      if (due(1) || done) {
        live.clear();
        status();
      }
      const double before = trainer_now();
      if (due(options_.snap) || done) save_snapshots();
      if ((clock_.images_seen > 0 && due(options_.dump)) || done) save_state();
      maintenance_ += trainer_now() - before;
    }
    if (stop && saved_at_ != clock_.images_seen) save_state();
    if (done) return Outcome::finished;
    if (stop) return Outcome::interrupted;
    first = false;
    step();
    const double loss = stats_.mean("Loss/loss");
    if (std::isfinite(loss)) last_loss_ = loss;
    live.update(progress_text());
  }
}

}  // namespace flowmap
