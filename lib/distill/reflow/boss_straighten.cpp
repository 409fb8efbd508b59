#include "distill/reflow/boss_straighten.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "distill/method.h"
#include "distill/reflow/losses.h"
#include "distill/reflow/pair_task.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/interpolant.h"
#include "flowmap/train/options.h"
#include "samplers/boss/schedule_file.h"

namespace flowmap::distill {

double SegmentGrid::knot(int64_t k) const {
  return times[static_cast<std::size_t>(knots[static_cast<std::size_t>(k)])];
}

SegmentGrid segment_grid(std::vector<double> anchors, const std::vector<double>& knots,
                         int64_t substeps, bool heun, const std::string& where) {
  bool rising = knots.size() >= 2 && knots.front() == 0 && knots.back() == 1;
  for (std::size_t i = 1; i < knots.size(); ++i) rising = rising && knots[i] > knots[i - 1];
  FM_CHECK_USAGE(rising, where, ": knots are times that rise from 0 (noise) to 1 (data), "
                 "such as 0, 0.4, 0.8, 1");
  // A knot that an anchor misses by rounding replaces it.
  constexpr double kSame = 1e-9;
  std::erase_if(anchors, [&](double a) {
    return !(a > 0 && a < 1) || std::any_of(knots.begin(), knots.end(), [&](double knot) {
      return std::abs(knot - a) < kSame;
    });
  });
  anchors.insert(anchors.end(), knots.begin(), knots.end());
  std::sort(anchors.begin(), anchors.end());
  SegmentGrid grid;
  grid.heun = heun;
  std::size_t next = 0;
  for (std::size_t i = 0; i < anchors.size(); ++i) {
    if (anchors[i] == knots[next]) {
      grid.knots.push_back(static_cast<int64_t>(grid.times.size()));
      ++next;
    }
    grid.times.push_back(anchors[i]);
    if (i + 1 == anchors.size()) break;
    const double h = (anchors[i + 1] - anchors[i]) / static_cast<double>(substeps);
    for (int64_t part = 1; part < substeps; ++part)
      grid.times.push_back(anchors[i] + h * static_cast<double>(part));
  }
  return grid;
}

Segments teacher_segments(const Teacher& teacher, const at::Tensor& start,
                          const Condition& condition, double guidance,
                          const SegmentGrid& grid, Model* student,
                          const at::Tensor& of_student, Context& context) {
  const at::NoGradGuard no_grad;
  const int64_t rows = start.size(0), segments = grid.segments();
  const auto times = [&](int64_t count, double t) {
    return at::full({count}, t, start.options().dtype(at::kDouble));
  };
  const at::Tensor scale = guidance == 1 ? at::Tensor() : times(rows, guidance);
  const auto slope = [&](const at::Tensor& x, double t) {
    return teacher.velocity(x, times(rows, t), condition, scale, context).to(at::kDouble);
  };
  at::Tensor chosen;  // rows that follow the student
  if (of_student.defined()) chosen = of_student.nonzero().squeeze(1);
  const bool follows = chosen.defined() && chosen.numel() > 0;
  at::Tensor x = start.to(at::kDouble);
  std::vector<at::Tensor> starts, slopes;
  for (int64_t k = 0; k < segments; ++k) {
    const at::Tensor from = x;
    for (auto i = static_cast<std::size_t>(grid.knots[static_cast<std::size_t>(k)]);
         i < static_cast<std::size_t>(grid.knots[static_cast<std::size_t>(k) + 1]); ++i) {
      const double h = grid.times[i + 1] - grid.times[i];
      const at::Tensor v = slope(x, grid.times[i]);
      x = grid.heun ? x + 0.5 * h * (v + slope(x + h * v, grid.times[i + 1])) : x + h * v;
    }
    starts.push_back(from);
    slopes.push_back((x - from) / grid.length(k));
    if (!follows || k + 1 == segments) continue;
    const at::Tensor own = from.index_select(0, chosen);
    const at::Tensor v =
        student->velocity(own, times(own.size(0), grid.knot(k)), condition.select(chosen),
                          context).value.to(at::kDouble);
    x = x.index_copy(0, chosen, own + grid.length(k) * v);
  }
  return {at::stack(starts), at::stack(slopes)};
}

namespace {

// Loss of a row: w_k times l2 (mean over dimensions of (v - slope)^2) or pseudo-Huber. Rows
// stand in groups of K, one path and one class a group, each row another segment, so that all
// knots are trained alike. Groups begin at multiples of K in the step, so that micro-batches
// change nothing; they must hold whole groups (the step's last one may be cut).
class BossStraighten : public Task {
 public:
  explicit BossStraighten(const BuildContext& context) {
    const Config options = context.config.child("method");
    players_.push_back(make_student(context));
    const ModelInfo info = students().info();
    require_linear_velocity(info, "boss_straighten");
    players_.push_back(read_frozen_teacher(context, "boss_straighten", info));
    read_grid(options);
    const std::vector<std::string> losses = {"l2", "huber"}, weights = {"none", "h2"};
    huber_ = options.choice("loss", losses, "l2") == "huber";
    if (huber_) relative_c_ = options.number("huber_c", relative_c_, 1e-12, 1e6);
    by_length_ = options.choice("weight", weights, "none") == "h2";
    student_states_ = options.number("student_states", 0, 0, 1);
    duration_ = read_duration(context.config.child("trainer"));
    label_dim_ = info.label_dim;
    FM_CHECK_USAGE(guidance_ == 1 || label_dim_ > 0, options.where("guidance"),
                   ": method.guidance needs classes; set data.labels = true");
  }

  std::vector<Player>& players() override { return players_; }
  // Paths start from the draw's own noise: of the data only the classes are of use.
  Stream stream() const override {
    return label_dim_ > 0 ? Stream::labels_only : Stream::none;
  }

  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    Model& student = students();
    const ModelInfo info = student.info();
    const at::Device device = student.parameters().front().device();
    const int64_t rows = step.draw.rows(), segments = grid_.segments();
    FM_CHECK_USAGE(step.first_row % segments == 0, "method boss_straighten: micro-batches "
                   "must hold whole groups of ", segments, " segments; set "
                   "trainer.batch_gpu to a multiple of ", segments);
    const at::Tensor leaders = at::arange(0, rows, segments);  // the first row of each group
    const at::Tensor group = at::arange(rows).div(segments, "floor");
    const Draw draw = step.draw.select(leaders);
    const at::Tensor first = draw.integer("segment", {}, segments);
    const at::Tensor segment =
        (first.index_select(0, group) + at::arange(rows)).remainder(segments);

    Condition condition;
    if (batch.labels.defined())
      condition.class_labels = batch.labels.index_select(0, leaders.to(device));
    const at::Tensor noise = draw.normal("noise", info.sample_shape).to(device);
    at::Tensor of_student;
    if (student_states_ > 0 && 3 * step.clock.images_seen >= 2 * duration_)
      of_student = draw.uniform("student_states", {}).lt(student_states_).to(device);
    Context plain = step.plain_context();
    const Segments found =
        teacher_segments(*players_[1].model, noise * info.base_std, condition, guidance_,
                         grid_, &student, of_student, plain);

    std::vector<float> knots, weights;
    for (int64_t k = 0; k < segments; ++k) {
      knots.push_back(static_cast<float>(grid_.knot(k)));
      const double relative = grid_.length(k) * static_cast<double>(segments);
      weights.push_back(static_cast<float>(by_length_ ? relative * relative : 1));
    }
    const at::Tensor at = segment.to(device), of = group.to(device);
    const at::Tensor x = found.starts.index({at, of}).to(at::kFloat);
    const at::Tensor slope = found.slopes.index({at, of}).to(at::kFloat);
    const at::Tensor t = at::tensor(knots).to(device).index_select(0, at);
    Context training = step.training_context(step.draw);
    const at::Tensor velocity =
        student.velocity(x, t, of_rows(condition, of), training).value;
    const at::Tensor error = huber_ ? pseudo_huber(velocity, slope, relative_c_)
                                    : mean_square(velocity, slope);
    const at::Tensor raw = error * at::tensor(weights).to(device).index_select(0, at);
    LossResult result;
    result.loss = raw.sum() / static_cast<double>(step.global_batch);
    result.stats.emplace_back("Loss/loss", raw.detach());
    for (int64_t k = 0; k < segments; ++k)
      if (const at::Tensor own = error.detach().index({at.eq(k)}); own.numel() > 0)
        result.stats.emplace_back("Segments/loss_" + std::to_string(k + 1), own);
    if (student_states_ > 0)
      result.stats.emplace_back(
          "Segments/student_states",
          of_student.defined() ? of_student.index_select(0, of).to(at::kFloat)
                               : at::zeros({rows}));
    return result;
  }

  std::string snapshot_info() const override {
    std::vector<std::string> knots;
    for (int64_t k = 0; k <= grid_.segments(); ++k)
      knots.push_back(format("%.17g", grid_.knot(k)));
    return format(R"({"method": "boss_straighten", "default_sampler": "euler", )"
                  R"("default_steps": %lld, "default_times": [%s]})",
                  static_cast<long long>(grid_.segments()), join(knots, ", ").c_str());
  }

 private:
  Model& students() { return *players_[0].model; }
  static Condition of_rows(const Condition& condition, const at::Tensor& rows) {
    return condition.class_labels.defined() ? condition.select(rows) : condition;
  }

  // "schedule" (a file of `flowmap boss search`) and "nfe" (default: its largest budget), or
  // "knots" and "anchors" (equal steps of the teacher's walk).
  void read_grid(const Config& options) {
    const std::string file = options.path("schedule", "");
    FM_CHECK_USAGE(file.empty() == options.has("knots"), options.where("schedule"),
                   ": method boss_straighten takes either method.schedule (a file of "
                   "`flowmap boss search`) with method.nfe, or method.knots");
    const std::vector<std::string> solvers = {"euler", "heun"};
    if (file.empty()) {
      guidance_ = options.number("guidance", 1, -1e3, 1e3);
      const int64_t steps = options.integer("anchors", 100, 1, 1 << 20);
      std::vector<double> anchors;
      for (int64_t i = 0; i <= steps; ++i)
        anchors.push_back(static_cast<double>(i) / static_cast<double>(steps));
      grid_ = segment_grid(anchors, options.numbers("knots"),
                           options.integer("substeps", 1, 1, 1 << 20),
                           options.choice("solver", solvers, "euler") == "heun",
                           options.where("knots"));
      return;
    }
    const samplers::ScheduleFile found = samplers::read_schedule_file(file);
    const samplers::Schedule schedule = samplers::schedule_from_file(
        found, options.where("schedule") + ": " + file, *players_[1].model,
        options.integer("nfe", found.budgets.back().nfe, 1),
        options.boolean("force", false));
    guidance_ = options.number("guidance", found.guidance, -1e3, 1e3);
    // A teacher by tolerance is walked by the nearest that has steps.
    const std::string solver = found.teacher == "euler" ? "euler" : "heun";
    grid_ = segment_grid(found.anchors, schedule.times,
                         options.integer("substeps", found.substeps, 1, 1 << 20),
                         options.choice("solver", solvers, solver) == "heun",
                         options.where("schedule"));
  }

  SegmentGrid grid_;
  double guidance_ = 1, relative_c_ = 0.00054, student_states_ = 0;
  bool huber_ = false, by_length_ = false;
  int64_t duration_ = 0, label_dim_ = 0;
  std::vector<Player> players_;
};

}  // namespace

std::shared_ptr<Task> make_boss_straighten(const BuildContext& context) {
  return std::make_shared<BossStraighten>(context);
}

}  // namespace flowmap::distill
