#include "samplers/rk45.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "flowmap/base/error.h"
#include "samplers/rk45_slope.h"
#include "samplers/rk45_tableau.h"

namespace flowmap::samplers {
namespace {

// Step control: a step is scaled by 0.9 err^(-1/5), within [0.2, 10], and not enlarged right
// after a rejection.
constexpr double kRk45Safety = 0.9, kRk45LeastFactor = 0.2, kRk45MostFactor = 10;
constexpr double kRk45ErrorOrder = 4;

class Rk45Run {
 public:
  Rk45Run(Model& model, const Condition& condition, const Schedule& schedule,
          const at::Tensor& latents, const Rk45Options& options)
      : slope_(model, condition, latents), options_(options), knots_(schedule.times) {
    to_zero_ = schedule.sigma && knots_.back() == 0;
    end_ = to_zero_ ? knots_[knots_.size() - 2] : knots_.back();
    FM_CHECK_USAGE(knots_.front() != end_, "rk45: a schedule of one step to sigma 0 leaves "
                   "nothing to integrate; give a lowest noise level (two steps or more)");
    direction_ = end_ > knots_.front() ? 1 : -1;
  }

  Rk45Solution solve(const at::Tensor& start) {
    x_ = start;
    const int64_t batch = x_.size(0);
    for (int64_t row = 0; row < batch; ++row) rows_.push_back(row);
    times_.assign(rows_.size(), knots_.front());
    rejected_.assign(rows_.size(), false);
    out_.final_state = at::empty_like(x_);
    out_.evaluations.assign(rows_.size(), 0);
    out_.accepted.push_back(knots_.front());
    if (options_.keep_knots) {
      std::vector<int64_t> shape = x_.sizes().vec();
      shape.insert(shape.begin(), static_cast<int64_t>(knots_.size()));
      out_.knots = at::empty(shape, x_.options());
      out_.knots[0].copy_(x_);
    }
    f_ = evaluate(x_, times_);
    steps_ = initial_steps();
    while (!rows_.empty()) attempt();
    return std::move(out_);
  }

 private:
  at::Tensor evaluate(const at::Tensor& x, const Numbers& times) {
    for (const int64_t row : rows_) ++out_.evaluations[static_cast<std::size_t>(row)];
    return slope_(x, times);
  }

  // Root mean square of each row, or the batch's in every row.
  Numbers norms(const at::Tensor& values) const {
    const at::Tensor squares = values.square().flatten(1).mean(1);
    const at::Tensor norm =
        (options_.per_row ? squares : squares.mean().expand({squares.size(0)}))
            .sqrt().to(at::kCPU).contiguous();
    const double* data = norm.const_data_ptr<double>();
    return {data, data + norm.numel()};
  }

  // Hairer et al., II.4, "starting step size": a hundredth of |x|/|x'|, refined by an Euler
  // step's second derivative.
  Numbers initial_steps() {
    const double interval = std::abs(end_ - knots_.front());
    const at::Tensor scale = options_.atol + x_.abs() * options_.rtol;
    const Numbers d0 = norms(x_ / scale), d1 = norms(f_ / scale);
    Numbers h0(d0.size()), probe_times(d0.size());
    for (std::size_t i = 0; i < h0.size(); ++i) {
      require_finite(d1[i], i);
      h0[i] = d0[i] < 1e-5 || d1[i] < 1e-5 ? 1e-6 : 0.01 * d0[i] / d1[i];
      h0[i] = std::min(h0[i], interval);
      probe_times[i] = times_[i] + direction_ * h0[i];
    }
    const at::Tensor probe = x_ + direction_ * RowSlope::column(h0, x_) * f_;
    const Numbers change = norms((evaluate(probe, probe_times) - f_) / scale);
    Numbers steps(h0.size());
    for (std::size_t i = 0; i < h0.size(); ++i) {
      const double d2 = change[i] / h0[i];
      const double h1 = d1[i] <= 1e-15 && d2 <= 1e-15
                            ? std::max(1e-6, h0[i] * 1e-3)
                            : std::pow(0.01 / std::max(d1[i], d2), 1 / (kRk45ErrorOrder + 1));
      steps[i] = std::min({100 * h0[i], h1, interval});
    }
    return steps;
  }

  // One step of every row that is left; those whose error is within the tolerance advance.
  void attempt() {
    const std::size_t n = rows_.size();
    Numbers next(n), h(n);
    for (std::size_t i = 0; i < n; ++i) {
      const double far = direction_ * std::numeric_limits<double>::infinity();
      const double least = 10 * std::abs(std::nextafter(times_[i], far) - times_[i]);
      if (steps_[i] < least) {
        FM_CHECK(!rejected_[i], "rk45: the step has become too small at ", times_[i],
                 "; the network may be too rough for rtol = ", options_.rtol,
                 ", atol = ", options_.atol, ": raise them, or use --dtype float64");
        steps_[i] = least;
      }
      next[i] = times_[i] + direction_ * steps_[i];
      if (direction_ * (next[i] - end_) > 0) next[i] = end_;
      h[i] = next[i] - times_[i];
      steps_[i] = std::abs(h[i]);
    }
    const at::Tensor step = RowSlope::column(h, x_);
    std::array<at::Tensor, kRk45Stages + 1> k;
    k[0] = f_;
    for (std::size_t s = 1; s < kRk45Stages; ++s) {
      Numbers stage_times(n);
      for (std::size_t i = 0; i < n; ++i) stage_times[i] = times_[i] + kRk45C[s] * h[i];
      k[s] = evaluate(x_ + step * combine(kRk45A[s], k, s), stage_times);
    }
    const at::Tensor x_next = x_ + step * combine(kRk45B, k, kRk45Stages);
    Numbers last(n);
    for (std::size_t i = 0; i < n; ++i) last[i] = times_[i] + h[i];
    k[kRk45Stages] = evaluate(x_next, last);
    const at::Tensor scale =
        options_.atol + at::maximum(x_.abs(), x_next.abs()) * options_.rtol;
    const Numbers errors = norms(step * combine(kRk45E, k, kRk45Stages + 1) / scale);

    std::vector<std::uint8_t> accepted(n, 0);
    for (std::size_t i = 0; i < n; ++i) {
      require_finite(errors[i], i);
      accepted[i] = errors[i] < 1;
      const double wanted = kRk45Safety * std::pow(errors[i], -1 / (kRk45ErrorOrder + 1));
      if (accepted[i]) {
        const double most = rejected_[i] ? 1 : kRk45MostFactor;
        steps_[i] *= errors[i] == 0 ? most : std::min(most, wanted);
      } else {
        steps_[i] *= std::max(kRk45LeastFactor, wanted);
      }
      rejected_[i] = !accepted[i];
    }
    if (options_.keep_knots) write_knots(k, h, next, accepted);
    advance(accepted, next, x_next, k[kRk45Stages]);
  }

  template <std::size_t N>
  static at::Tensor combine(const std::array<double, N>& weights,
                            const std::array<at::Tensor, kRk45Stages + 1>& k,
                            std::size_t count) {
    at::Tensor total = weights[0] * k[0];
    for (std::size_t j = 1; j < count; ++j)
      if (weights[j] != 0) total = total + weights[j] * k[j];
    return total;
  }

  // Knots inside the accepted steps, by the quartic through the stages.
  void write_knots(const std::array<at::Tensor, kRk45Stages + 1>& k, const Numbers& h,
                   const Numbers& next, const std::vector<std::uint8_t>& accepted) {
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (!accepted[i]) continue;
      const auto at_row = static_cast<int64_t>(i);
      for (std::size_t knot = 1; knot < knots_.size(); ++knot) {
        const double where = knots_[knot];
        if (direction_ * (where - times_[i]) <= 0 || direction_ * (where - next[i]) > 0)
          continue;
        const double theta = (where - times_[i]) / h[i];
        at::Tensor state = x_[at_row].clone();
        for (std::size_t s = 0; s <= kRk45Stages; ++s) {
          double weight = 0;
          for (std::size_t p = kRk45P[s].size(); p-- > 0;)
            weight = theta * (weight + kRk45P[s][p]);
          if (weight != 0) state += h[i] * weight * k[s][at_row];
        }
        out_.knots[static_cast<int64_t>(knot)][rows_[i]].copy_(state);
      }
    }
  }

  void advance(const std::vector<std::uint8_t>& accepted, const Numbers& next,
               const at::Tensor& x_next, const at::Tensor& f_next) {
    std::vector<int64_t> mask(accepted.begin(), accepted.end());
    std::vector<int64_t> shape(static_cast<std::size_t>(x_.dim()), 1);
    shape[0] = x_.size(0);
    const at::Tensor moves =
        at::tensor(mask, at::kLong).to(x_.device(), at::kBool).reshape(shape);
    x_ = at::where(moves, x_next, x_);
    f_ = at::where(moves, f_next, f_);
    std::vector<int64_t> left;
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (accepted[i]) {
        times_[i] = next[i];
        if (rows_[i] == 0) out_.accepted.push_back(next[i]);
      }
      if (times_[i] != end_)
        left.push_back(static_cast<int64_t>(i));
      else
        finish(static_cast<int64_t>(i), rows_[i]);
    }
    if (left.size() == rows_.size()) return;
    const at::Tensor index = at::tensor(left, at::kLong);
    x_ = x_.index_select(0, index.to(x_.device()));
    f_ = f_.index_select(0, index.to(x_.device()));
    slope_.select(index);
    keep(rows_, left);
    keep(times_, left);
    keep(steps_, left);
    keep(rejected_, left);
  }

  void finish(int64_t position, int64_t row) {
    at::Tensor state = x_[position];
    // D = x - sigma dx/dsigma.
    if (to_zero_) state = state - end_ * f_[position];
    out_.final_state[row].copy_(state);
    if (out_.knots.defined()) out_.knots[-1][row].copy_(state);
  }

  template <class T>
  static void keep(std::vector<T>& values, const std::vector<int64_t>& left) {
    std::vector<T> kept;
    for (const int64_t i : left) kept.push_back(values[static_cast<std::size_t>(i)]);
    values = std::move(kept);
  }

  void require_finite(double value, std::size_t i) const {
    FM_CHECK(std::isfinite(value), "rk45: the network's answer is not finite near ",
             times_[i], " in row ", rows_[i]);
  }

  RowSlope slope_;
  Rk45Options options_;
  Numbers knots_;
  double end_ = 0, direction_ = 1;
  bool to_zero_ = false;
  // Of the rows that are not done: their numbers, states, slopes, times, next steps (sizes),
  // and whether the last attempt was rejected.
  std::vector<int64_t> rows_;
  at::Tensor x_, f_;
  Numbers times_, steps_;
  std::vector<std::uint8_t> rejected_;
  Rk45Solution out_;
};

}  // namespace

Rk45Solution solve_rk45(Model& model, const at::Tensor& latents, const Condition& condition,
                        const Schedule& schedule, const Rk45Options& options) {
  const at::NoGradGuard no_grad;
  const Schedule knots = walked(schedule, options.final_sigma);
  const at::Tensor start =
      DataPredictor(model, condition, knots, latents).start(latents);
  return Rk45Run(model, condition, knots, latents, options).solve(start);
}

namespace {

class Rk45 : public Sampler {
 public:
  explicit Rk45(const Rk45Options& options) : options_(options) {}
  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw&) const override {
    return solve_rk45(model, latents, condition, schedule, options_)
        .final_state.to(latents.scalar_type());
  }
  // Known after the run only.
  int64_t evaluations(const ModelInfo&, const Schedule&) const override { return 0; }

 private:
  Rk45Options options_;
};

}  // namespace

Rk45Options read_rk45_options(const Config& options) {
  static const std::vector<std::string> controls{"row", "batch"};
  // Tolerances near the rounding of float64 cannot be met; scipy's bound is 100 of its units.
  constexpr double kLeastRtol = 100 * std::numeric_limits<double>::epsilon();
  Rk45Options read;
  read.rtol = options.number("rtol", 1e-5, kLeastRtol, 1);
  read.atol = options.number("atol", 1e-5, 0, 1);
  read.per_row = options.choice("control", controls, "row") == "row";
  read.final_sigma = read_final_sigma(options);
  return read;
}

std::shared_ptr<Sampler> make_rk45(const Config& options) {
  return std::make_shared<Rk45>(read_rk45_options(options));
}

}  // namespace flowmap::samplers
