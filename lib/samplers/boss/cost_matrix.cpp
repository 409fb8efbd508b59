#include "samplers/boss/cost_matrix.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "flowmap/base/error.h"

namespace flowmap::samplers {
namespace {

// Columns of a sample that are multiplied at once: bounds the float64 copy.
constexpr int64_t kGramColumns = int64_t{1} << 14;

at::Tensor anchor_square(const std::vector<double>& anchors) {
  const auto n = static_cast<int64_t>(anchors.size());
  return at::zeros({n, n}, at::kDouble);
}

// Gram matrix of one sample: states less the chord, then slopes less the chord's if any.
at::Tensor gram_of_sample(const TeacherPath& path, int64_t row) {
  const int64_t steps = path.steps(), d = path.states.size(2);
  const int64_t rows = steps + 1 + (path.slopes.defined() ? steps : 0);
  const auto options = path.states.options();
  const double begin = path.anchors.front(), span = path.anchors.back() - begin;
  const at::Tensor at_anchor = at::tensor(path.anchors, at::kDouble).to(options.device());
  const at::Tensor fraction = ((at_anchor - begin) / span).unsqueeze(1);  // [T+1, 1]
  at::Tensor gram = at::zeros({rows, rows}, options);
  for (int64_t first = 0; first < d; first += kGramColumns) {
    const int64_t width = std::min(kGramColumns, d - first);
    const at::Tensor x = path.states.select(1, row).narrow(1, first, width);
    const at::Tensor chord = x[steps] - x[0];
    at::Tensor part = x - x[0] - fraction * chord;
    if (path.slopes.defined())
      part = at::cat(
          {part, path.slopes.select(1, row).narrow(1, first, width) - chord / span});
    gram += symmetric_product(part);
  }
  return gram.to(at::kCPU);
}

}  // namespace

at::Tensor symmetric_product(const at::Tensor& rows) {
  constexpr int64_t kBlock = 32;
  const int64_t n = rows.size(0);
  at::Tensor product = at::empty({n, n}, rows.options());
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t height = std::min(kBlock, n - first);
    const at::Tensor block =
        at::mm(rows.narrow(0, first, height), rows.narrow(0, first, n - first).t());
    product.narrow(0, first, height).narrow(1, first, n - first).copy_(block);
    if (first + height < n)
      product.narrow(0, first + height, n - first - height)
          .narrow(1, first, height)
          .copy_(block.narrow(1, height, n - first - height).t());
  }
  return product;
}

CostSums::CostSums(std::vector<double> anchors, std::vector<double> scale)
    : anchors_(std::move(anchors)), scale_(std::move(scale)) {
  FM_CHECK(anchors_.size() >= 2, "a cost matrix needs two anchors or more");
  if (scale_.empty()) scale_.assign(anchors_.size(), 1);
  FM_CHECK(scale_.size() == anchors_.size(), "one scale an anchor");
  squared_ = anchor_square(anchors_);
  norm_ = anchor_square(anchors_);
}

void CostSums::add_euler_steps(const TeacherPath& path) {
  FM_CHECK(path.anchors == anchors_, "the path's anchors are not the matrix's");
  const at::NoGradGuard no_grad;
  const int64_t steps = path.steps(), n = steps + 1;
  const bool has_slopes = path.slopes.defined();
  const auto t = [&](int64_t i) { return anchors_[static_cast<std::size_t>(i)]; };
  for (int64_t row = 0; row < path.states.size(1); ++row) {
    const at::Tensor gram = gram_of_sample(path, row).contiguous();
    const int64_t width = gram.size(1);
    const double* const data = gram.const_data_ptr<double>();
    const auto g = [&](int64_t a, int64_t b) { return data[a * width + b]; };
    at::Tensor squared = anchor_square(anchors_);
    auto* const out = squared.mutable_data_ptr<double>();
    for (int64_t i = 0; i < steps; ++i)
      for (int64_t j = i + 1; j < n; ++j) {
        const double h = t(j) - t(i);
        double cost;
        if (has_slopes) {
          const int64_t v = n + i;
          cost = g(j, j) + g(i, i) + h * h * g(v, v) - 2 * g(i, j) - 2 * h * g(j, v) +
                 2 * h * g(i, v);
        } else {
          const double r = h / (t(i + 1) - t(i));
          // One Euler step of an Euler teacher is its own step: exactly 0.
          cost = j == i + 1 ? 0
                            : g(j, j) + (1 - r) * (1 - r) * g(i, i) +
                                  r * r * g(i + 1, i + 1) - 2 * (1 - r) * g(i, j) -
                                  2 * r * g(i + 1, j) + 2 * r * (1 - r) * g(i, i + 1);
        }
        out[i * n + j] = std::max(cost, 0.0);
      }
    add_sample(squared);
  }
}

void CostSums::add_sample(const at::Tensor& squared) {
  const at::Tensor scale = at::tensor(scale_, at::kDouble).unsqueeze(0);
  const at::Tensor scaled = squared.to(at::kCPU, at::kDouble) * scale.square();
  squared_ += scaled;
  norm_ += scaled.sqrt();
  ++samples_;
}

void CostSums::add_carried(const at::Tensor& carried) {
  if (!carried_.defined()) carried_ = anchor_square(anchors_);
  carried_ += carried.to(at::kCPU, at::kDouble);
}

at::Tensor CostSums::plain(int power) const {
  FM_CHECK(samples_ > 0, "a cost matrix without samples");
  FM_CHECK_USAGE(power == 1 || power == 2, "norm: 1 or 2, not ", power);
  return (power == 2 ? squared_ : norm_) / static_cast<double>(samples_);
}

at::Tensor CostSums::carried(int power) const {
  FM_CHECK_USAGE(carried_.defined(), "these costs were recorded without sensitivities");
  FM_CHECK_USAGE(power == 1 || power == 2, "norm: 1 or 2, not ", power);
  const at::Tensor mean = carried_ / static_cast<double>(samples_);
  return power == 2 ? mean : mean.sqrt();
}

void CostSums::merge(const CostSums& other) {
  FM_CHECK_USAGE(anchors_ == other.anchors_ && scale_ == other.scale_,
                 "costs on different anchors cannot be added");
  FM_CHECK_USAGE(samples_ == 0 || other.samples_ == 0 ||
                     has_carried() == other.has_carried(),
                 "costs with and without sensitivities cannot be added");
  squared_ += other.squared_;
  norm_ += other.norm_;
  if (other.has_carried()) add_carried(other.carried_);
  samples_ += other.samples_;
}

CostSums CostSums::from_sums(std::vector<double> anchors, std::vector<double> scale,
                             int64_t samples, at::Tensor squared, at::Tensor norm,
                             at::Tensor carried) {
  CostSums sums(std::move(anchors), std::move(scale));
  sums.samples_ = samples;
  sums.squared_ = std::move(squared);
  sums.norm_ = std::move(norm);
  sums.carried_ = std::move(carried);
  return sums;
}

}  // namespace flowmap::samplers
