// What the members of the flow-map family share (residual.h).
#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "distill/flow_map/residual.h"
#include "distill/ladder.h"
#include "distill/regression_losses.h"
#include "distill/weight_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/interpolant.h"
#include "flowmap/precision.h"
#include "flowmap/time_sampling.h"
#include "flowmap/train/ema.h"
#include "flowmap/train/options.h"
#include "flowmap/train/snapshot.h"

namespace flowmap::distill {
namespace {

enum class Target { current, ema, frozen };

// The `sample`-th sample of the run is off-diagonal where the running count of such
// samples steps up. So the share is exact whatever the batch (1 too), and micro-batches
// and ranks see the mix that one big batch would: a layout [diagonal | off-diagonal] cut
// into shards would not give it.
bool is_off_diagonal(int64_t sample, double eta) {
  constexpr int64_t kUnit = 1'000'000;
  const auto share = static_cast<int64_t>(std::llround((1 - eta) * kUnit));
  const int64_t place = sample % kUnit;  // a whole number of rounds adds whole counts
  return (place + 1) * share / kUnit > place * share / kUnit;
}

// Each sample of the batch is either diagonal (flow matching at t, fraction eta) or
// off-diagonal (the member's residual at s < t). Objective: the mean over the batch of the
// weighted raw losses, which are sums over dimensions.
class FlowMapTask : public Task {
 public:
  FlowMapTask(const BuildContext& context, std::string name,
              const FamilyDefaults& defaults, const MakeResidual& make);

  std::vector<Player>& players() override { return players_; }
  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override;
  std::map<std::string, at::Tensor> state() const override;
  void load_state(const std::map<std::string, at::Tensor>& state) override;
  std::string snapshot_info() const override {
    return R"({"method": ")" + name_ +
           R"(", "default_sampler": "flow_map", "default_steps": 1)" +
           (default_guidance_ == 1 ? std::string()
                                   : format(", \"default_guidance\": %g",
                                            default_guidance_)) + "}";
  }

 private:
  struct Terms {
    at::Tensor raw, weighted;  // [rows]
  };
  // Rows of a batch that are treated alike.
  struct Rows {
    Draw draw;
    at::Tensor x1, noise;
    Condition condition;
  };

  void read_options(const Config& options, const FamilyDefaults& defaults);
  void read_teacher(const BuildContext& context, const Config& options);
  void read_guidance(const Config& options);
  void read_weights(const Config& options, const FamilyDefaults& defaults);

  Model& student() { return *players_[0].model; }
  Rows rows_of(const Batch& batch, const StepContext& step, const at::Tensor& index) const;
  Interpolated point(const Rows& rows, const at::Tensor& t) const;
  Terms weigh(const at::Tensor& raw, const at::Tensor& s, const at::Tensor& t);
  Terms diagonal(const Rows& rows, const StepContext& step, const at::Tensor& t);
  Terms off_diagonal(const Rows& rows, const StepContext& step,
                     const TimePairSampler::Pair& time);
  // The sample's velocity, mixed with the student's own where MeanFlow's guidance is on.
  at::Tensor guided_sample_velocity(const MapSamples& at, Context& context);
  TimePairSampler::Pair pair_times(const Rows& rows, const StepContext& step) const;
  Teacher teacher(const StepContext& step);
  double progress(const StepContext& step) const;

  std::string name_;
  double eta_ = 0, off_diagonal_weight_ = 1, diagonal_gap_ = 0, duration_ = 1;
  bool diagonal_on_all_ = false, term_means_ = false, regress_teacher_ = false;
  double label_dropout_ = 0, guidance_ = 0, guidance_max_ = 0, default_guidance_ = 1;
  double omega_ = 1, kappa_ = 0;
  double guidance_low_ = 0, guidance_high_ = 1;
  int64_t diagonal_only_ = 0, anneal_ = 0, rounds_ = 0, ema_profile_ = 0;
  Target target_ = Target::current;
  LossWeighting weighting_;
  TimeSampler diagonal_times_;
  TimePairSampler pair_times_;
  Precision jvp_precision_;
  std::unique_ptr<Residual> residual_;
  std::vector<Player> players_;
  Model* frozen_ = nullptr;
  Ladder ladder_;  // of rounds_ > 0
  std::shared_ptr<Model> average_;  // in use: Teacher does not own
};

FlowMapTask::FlowMapTask(const BuildContext& context, std::string name,
                         const FamilyDefaults& defaults, const MakeResidual& make)
    : name_(std::move(name)) {
  const Config options = context.config.child("method");
  duration_ = static_cast<double>(read_duration(context.config.child("trainer")));
  players_.push_back(make_student(context));
  FM_CHECK_USAGE(student().info().kind == ModelKind::flow_map, "method ", name_,
                 " trains a flow map; set preconditioning.two_times = true ",
                 "(the network then takes s and t)");
  read_options(options, defaults);
  read_weights(options, defaults);
  read_teacher(context, options);
  FM_CHECK_USAGE(frozen_ || !defaults.needs_teacher, "method ", name_,
                 " learns from a frozen network; give method.teacher");
  residual_ = make(options, frozen_ != nullptr);
  // A frozen velocity has a map only by Euler steps, which are right for short jumps alone:
  // it serves on the diagonal, and for the rounds that double the jumps.
  rounds_ = options.integer("rounds", 0, 0, 60);
  if (rounds_ > 0) ladder_ = Ladder(rounds_, read_duration(context.config.child("trainer")));
  FM_CHECK_USAGE(rounds_ == 0 || (frozen_ && residual_->uses_teacher_map()),
                 options.where("rounds"), ": method.rounds is for jumps that are built of ",
                 "a frozen teacher's (psd, shortcut, alpha_flow with method.teacher)");
  const bool frozen_fits =
      frozen_ && (!residual_->uses_teacher_map() || rounds_ > 0 ||
                  frozen_->info().kind == ModelKind::flow_map);
  const std::vector<std::string> targets = {"current", "ema", "frozen"};
  const std::string target =
      options.choice("target", targets, frozen_fits           ? "frozen"
                                        : defaults.ema_target ? "ema"
                                                              : "current");
  target_ = target == "current" ? Target::current
            : target == "ema"   ? Target::ema
                                : Target::frozen;
  FM_CHECK_USAGE(target_ != Target::frozen || frozen_, options.where("target"),
                 ": method.target = frozen needs method.teacher");
  if (target_ == Target::ema) {
    const int64_t profiles =
        static_cast<int64_t>(read_ema_profiles(context.config.child("trainer")).size());
    ema_profile_ = options.integer("target_profile", 0, 0, profiles - 1);
  }
  read_guidance(options);
}

void FlowMapTask::read_options(const Config& options, const FamilyDefaults& defaults) {
  eta_ = options.number("eta", defaults.eta, 0, 1);
  off_diagonal_weight_ = options.number("off_diagonal_weight", 1, 0, 1e6);
  const std::vector<std::string> reductions = {"counts", "means"};
  term_means_ = options.choice("reduction", reductions, "counts") == "means";
  FM_CHECK_USAGE(!term_means_ || (eta_ > 0 && eta_ < 1), options.where("reduction"),
                 ": method.reduction = means needs both terms; set 0 < method.eta < 1");
  diagonal_on_all_ = options.boolean("diagonal_on_all", defaults.diagonal_on_all);
  diagonal_gap_ = options.number("diagonal_gap", defaults.diagonal_gap, 0, 1);
  diagonal_only_ = options.count("diagonal_only", 1, 0);
  anneal_ = options.count("anneal", 1, 0);
  diagonal_times_ = read_time_sampler(options.child("times"));
  Config pairs = options.child("pairs");
  if (!pairs.has("type"))
    pairs.set_json("type", '"' + defaults.pairs + '"', "method " + name_);
  if (defaults.one_probability > 0 && !pairs.has("one_probability"))
    pairs.set_json("one_probability", format("%g", defaults.one_probability),
                   "method " + name_);
  pair_times_ = read_time_pair_sampler(pairs);
  jvp_precision_ =
      parse_precision(options.string("jvp_dtype", "float32"), "method.jvp_dtype");
  label_dropout_ = options.number("label_dropout", 0, 0, 1);
}

void FlowMapTask::read_weights(const Config& options, const FamilyDefaults& defaults) {
  const std::vector<std::string> weights = {"none", "learned", "adaptive", "cauchy"};
  const std::string by_default = defaults.weight != "auto"        ? defaults.weight
                                 : student().has_log_weight() ? "learned"
                                                                  : "none";
  const std::string weight = options.choice("weight", weights, by_default);
  weighting_.rule = weight == "none"      ? LossWeight::none
                    : weight == "learned" ? LossWeight::learned
                    : weight == "cauchy"  ? LossWeight::cauchy
                                          : LossWeight::adaptive;
  FM_CHECK_USAGE(!needs_log_weight(weighting_.rule) || student().has_log_weight(),
                 options.where("weight"), ": method.weight = ", weight, " needs ",
                 "preconditioning.log_weight = true");
  if (weighting_.rule == LossWeight::adaptive) {
    weighting_.p = options.number("adaptive_p", defaults.adaptive_p, 0, 2);
    weighting_.c = options.number("adaptive_c", defaults.adaptive_c, 0, 1e6);
  }
}

void FlowMapTask::read_teacher(const BuildContext& context, const Config& options) {
  const std::string file = options.path("teacher", "");
  const WeightOptions how = read_weight_options(context.config, "method.teacher_options");
  if (file.empty()) {
    FM_CHECK_USAGE(how.where.empty(), how.where, ": method.teacher_options is given, but ",
                   "no method.teacher");
    return;
  }
  const std::vector<std::string> targets = {"data", "teacher"};
  regress_teacher_ =
      options.choice("diagonal_target", targets, "teacher") == "teacher";
  players_.push_back(read_frozen_teacher(context, name_, student().info()));
  frozen_ = players_[1].model.get();
}

// Three ways: a fixed scale that a frozen teacher is guided by, a scale that the map takes
// as an input and that is drawn (guidance_max), or MeanFlow's mix of velocities.
void FlowMapTask::read_guidance(const Config& options) {
  const ModelInfo info = student().info();
  guidance_ = options.number("guidance", 1, 0, 1e3);
  guidance_max_ = options.number("guidance_max", 0, 0, 1e3);
  default_guidance_ = options.number("default_guidance", 1, 0, 1e3);
  omega_ = options.number("omega", 1, 0, 1e3);
  kappa_ = options.number("kappa", 0, -1e3, 1e3);
  guidance_low_ = options.number("guidance_low", 0, 0, 1);
  guidance_high_ = options.number("guidance_high", 1, 0, 1);
  for (const auto& [key, used] : {std::pair{"guidance", guidance_ != 1},
                                  {"guidance_max", guidance_max_ > 0},
                                  {"omega", omega_ != 1},
                                  {"kappa", kappa_ != 0},
                                  {"label_dropout", label_dropout_ > 0}})
    FM_CHECK_USAGE(!used || info.label_dim > 0, options.where(key), ": method.", key,
                   " needs classes; set data.labels = true");
  FM_CHECK_USAGE(guidance_ == 1 || target_ == Target::frozen, options.where("guidance"),
                 ": method.guidance is the fixed scale of a frozen teacher; give ",
                 "method.teacher, or let the map take the scale (method.guidance_max)");
  FM_CHECK_USAGE(guidance_ == 1 || !residual_->uses_teacher_map() ||
                     frozen_->info().kind != ModelKind::flow_map,
                 options.where("guidance"), ": method.guidance guides velocities, and ",
                 "this method asks the teacher for its map");
  FM_CHECK_USAGE(default_guidance_ == 1 || guidance_max_ > 0,
                 options.where("default_guidance"), ": method.default_guidance is the ",
                 "scale that `generate` uses where the map takes it as an input; set ",
                 "method.guidance_max");
  FM_CHECK_USAGE(guidance_max_ == 0 || info.guidance_input,
                 options.where("guidance_max"), ": method.guidance_max needs a network ",
                 "that takes the scale; set preconditioning.guidance_input = true");
  FM_CHECK_USAGE(guidance_max_ == 0 || guidance_ == 1, options.where("guidance_max"),
                 ": method.guidance and method.guidance_max exclude each other");
}

std::map<std::string, at::Tensor> FlowMapTask::state() const {
  return ladder_.state();
}

void FlowMapTask::load_state(const std::map<std::string, at::Tensor>& state) {
  ladder_.load_state(players_[0], state);
}

double FlowMapTask::progress(const StepContext& step) const {
  return duration_ > 0 ? std::min(1.0, static_cast<double>(step.clock.images_seen) /
                                           duration_)
                       : 0;
}

// In round 0 two Euler steps of the frozen velocity are the target, in round k two jumps of
// the student of round k-1.
Teacher FlowMapTask::teacher(const StepContext& step) {
  if (target_ == Target::ema) {
    average_ = step.ema("model", static_cast<int>(ema_profile_));
    return *average_;
  }
  if (target_ == Target::current) return student();
  if (rounds_ == 0) return *frozen_;
  Model* rung = ladder_.rung(players_[0], step);
  return rung ? *rung : *frozen_;
}

FlowMapTask::Rows FlowMapTask::rows_of(const Batch& batch, const StepContext& step,
                                       const at::Tensor& index) const {
  Rows rows{step.draw.select(index), batch.x.index_select(0, index), {}, {}};
  rows.noise =
      rows.draw.normal("noise", rows.x1.sizes().slice(1)).to(rows.x1.device());
  rows.condition = Condition{batch.labels, batch.augment_labels, {}}.select(index);
  if (label_dropout_ > 0) {
    const at::Tensor keep = rows.draw.uniform("label_dropout", {}).ge(label_dropout_);
    at::Tensor& labels = rows.condition.class_labels;
    labels = labels * keep.to(labels).unsqueeze(1);
  }
  return rows;
}

Interpolated FlowMapTask::point(const Rows& rows, const at::Tensor& t) const {
  const ModelInfo info = players_[0].model->info();
  return interpolate(rows.x1, rows.noise, t, info.base_std, info.interpolant);
}

FlowMapTask::Terms FlowMapTask::weigh(const at::Tensor& raw, const at::Tensor& s,
                                      const at::Tensor& t) {
  return {raw, weighting_.apply(student(), raw, s, t)};
}

FlowMapTask::Terms FlowMapTask::diagonal(const Rows& rows, const StepContext& step,
                                         const at::Tensor& t) {
  const Interpolated at_t = point(rows, t);
  const at::Tensor end = diagonal_gap_ > 0 ? (t + diagonal_gap_).clamp_max(1) : t;
  MapSamples at{at_t.x, at_t.target, t, end, rows.condition, {}};
  at::Tensor target = at_t.target;
  if (regress_teacher_) {
    const at::NoGradGuard no_grad;
    Context plain;
    const at::Tensor scale = guidance_ != 1 ? at::full_like(t, guidance_) : at::Tensor();
    target = Teacher(*frozen_).velocity(at.x, t, rows.condition, scale, plain)
                 .to(rows.x1.dtype());
  } else {
    Context plain;
    target = guided_sample_velocity(at, plain);
  }
  Context context = step.training_context(rows.draw);
  const at::Tensor raw =
      diagonal_gap_ > 0
          ? average_velocity_loss(student(), at, target, context)
          : diagonal_loss(student(), at.x, t, target, rows.condition, context);
  return weigh(raw, t, end);
}

at::Tensor FlowMapTask::guided_sample_velocity(const MapSamples& at, Context& context) {
  if (omega_ == 1 && kappa_ == 0) return at.velocity;
  const at::Tensor inside = at.s.ge(guidance_low_).logical_and(at.s.le(guidance_high_));
  return at::where(column_like(inside, at.x),
                   mixed_velocity(student(), at, omega_, kappa_, context), at.velocity);
}

TimePairSampler::Pair FlowMapTask::pair_times(const Rows& rows,
                                              const StepContext& step) const {
  double limit = 1;
  if (anneal_ > 0)
    limit = static_cast<double>(step.clock.images_seen - diagonal_only_) /
            static_cast<double>(anneal_);
  if (rounds_ > 0)
    limit = std::min(limit, std::exp2(static_cast<double>(ladder_.round(step.clock) + 1 -
                                                          rounds_)));
  TimePairSampler::Pair pair = pair_times_.sample(rows.draw, "pair", limit);
  return {pair.s.to(rows.x1.device()), pair.t.to(rows.x1.device())};
}

FlowMapTask::Terms FlowMapTask::off_diagonal(const Rows& rows, const StepContext& step,
                                             const TimePairSampler::Pair& time) {
  std::optional<PrecisionGuard> precision;
  if (residual_->differentiates())
    precision.emplace(rows.x1.device().type(), jvp_precision_);
  const Interpolated at_s = point(rows, time.s);
  MapSamples at{at_s.x, at_s.target, time.s, time.t, rows.condition, {}};
  if (guidance_ != 1) at.teacher_guidance = at::full_like(time.s, guidance_);
  if (guidance_max_ > 0) {
    at.teacher_guidance = guidance_max_ * rows.draw.uniform("guidance", {}).to(time.s);
    at.condition.guidance = at.teacher_guidance;
  }
  // Dropout is off for student and teacher alike: both must be the same function.
  Context context = step.plain_context();
  at.velocity = guided_sample_velocity(at, context);
  const at::Tensor raw =
      residual_->loss({student(), teacher(step), at, context, rows.draw, progress(step),
                       step.clock.images_seen});
  return weigh(raw, time.s, time.t);
}

LossResult FlowMapTask::loss(const Turn&, const Batch& batch, const StepContext& step) {
  const bool diagonal_phase = step.clock.images_seen < diagonal_only_;
  std::vector<int64_t> on, off;
  for (int64_t i = 0; i < batch.x.size(0); ++i)
    (!diagonal_phase &&
             is_off_diagonal(step.clock.images_seen + step.first_row + i, eta_)
         ? off
         : on)
        .push_back(i);
  LossResult result;
  at::Tensor total;
  const auto take = [&](const Terms& terms, const char* name) {
    const at::Tensor part = terms.weighted.sum();
    total = total.defined() ? total + part : part;
    result.stats.emplace_back(name, terms.raw.detach());
    result.stats.emplace_back("Loss/loss", terms.weighted.detach());
  };
  // Means of the two terms, instead of the mean over all samples.
  const double on_weight = term_means_ ? 1 / eta_ : 1;
  const double off_weight = off_diagonal_weight_ * (term_means_ ? 1 / (1 - eta_) : 1);
  if (!on.empty()) {
    const Rows rows = rows_of(batch, step, at::tensor(on, at::kLong));
    const at::Tensor t = diagonal_times_.sample(rows.draw, "time").to(rows.x1.device());
    Terms terms = diagonal(rows, step, t);
    terms.weighted = on_weight * terms.weighted;
    take(terms, "Loss/diagonal");
  }
  if (!off.empty()) {
    const Rows rows = rows_of(batch, step, at::tensor(off, at::kLong));
    const TimePairSampler::Pair time = pair_times(rows, step);
    Terms terms = off_diagonal(rows, step, time);
    terms.weighted = off_weight * terms.weighted;
    if (diagonal_on_all_) {
      const Terms too = diagonal(rows, step, time.s);
      terms.weighted = terms.weighted + on_weight * too.weighted;
      result.stats.emplace_back("Loss/diagonal", too.raw.detach());
    }
    take(terms, "Loss/off_diagonal");
  }
  result.loss = total / static_cast<double>(step.global_batch);
  return result;
}

}  // namespace

StopGradient read_stop_gradient(const Config& method,
                                std::initializer_list<StopGradient> allowed,
                                StopGradient fallback) {
  const auto name = [](StopGradient stop) {
    switch (stop) {
      case StopGradient::convex: return "convex";
      case StopGradient::none: return "none";
      case StopGradient::full: return "full";
      case StopGradient::detached: return "detached";
    }
    return "";
  };
  std::vector<std::string> names;
  for (const StopGradient stop : allowed) names.emplace_back(name(stop));
  const std::string chosen = method.choice("stop_gradient", names, name(fallback));
  for (const StopGradient stop : allowed)
    if (chosen == name(stop)) return stop;
  return fallback;
}

std::shared_ptr<Task> make_flow_map_task(const BuildContext& context,
                                         const std::string& name,
                                         const FamilyDefaults& defaults,
                                         const MakeResidual& make) {
  return std::make_shared<FlowMapTask>(context, name, defaults, make);
}

}  // namespace flowmap::distill
