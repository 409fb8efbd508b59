#include "samplers/unipc.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <string>
#include <utility>

namespace flowmap::samplers {
namespace {

constexpr std::size_t kUnipcNodes = 3;
using UnipcVector = std::array<double, kUnipcNodes>;

struct UnipcNode {
  double log_snr;
  at::Tensor value;  // data or noise, as predicted
};

// sum_j a_j r_j^k = b_k, k = 0..n-1, n <= 3: the weights a of the differences at distinct
// nodes r, by elimination.
UnipcVector solve_vandermonde(const UnipcVector& r, UnipcVector b, std::size_t n) {
  std::array<UnipcVector, kUnipcNodes> rows{};
  for (std::size_t k = 0; k < n; ++k)
    for (std::size_t j = 0; j < n; ++j)
      rows[k][j] = k == 0 ? 1 : rows[k - 1][j] * r[j];
  for (std::size_t c = 0; c < n; ++c) {
    std::size_t pivot = c;
    for (std::size_t k = c + 1; k < n; ++k)
      if (std::abs(rows[k][c]) > std::abs(rows[pivot][c])) pivot = k;
    std::swap(rows[c], rows[pivot]);
    std::swap(b[c], b[pivot]);
    for (std::size_t k = c + 1; k < n; ++k) {
      const double factor = rows[k][c] / rows[c][c];
      for (std::size_t j = c; j < n; ++j) rows[k][j] -= factor * rows[c][j];
      b[k] -= factor * b[c];
    }
  }
  for (std::size_t c = n; c-- > 0;) {
    for (std::size_t j = c + 1; j < n; ++j) b[c] -= rows[c][j] * b[j];
    b[c] /= rows[c][c];
  }
  return b;
}

// One step of length h in lambda from nodes[0], z = -h for data and h for noise: the
// integral of the exponential weights, which the next state subtracts. `end` is the value at
// the end of the step for the corrector, undefined for the predictor.
at::Tensor unipc_integral(const std::deque<UnipcNode>& nodes, int64_t order, double h,
                          double z, bool bh1, const at::Tensor& end) {
  const double weight = std::expm1(z), scale = bh1 ? z : weight;
  const at::Tensor& newest = nodes[0].value;
  at::Tensor total = weight * newest;
  const bool corrects = end.defined();
  const auto past = static_cast<std::size_t>(order) - 1;
  const std::size_t count = past + (corrects ? 1 : 0);
  if (count == 0) return total;

  UnipcVector r{}, b{};
  for (std::size_t j = 0; j < past; ++j)
    r[j] = (nodes[j + 1].log_snr - nodes[0].log_snr) / h;
  if (corrects) r[past] = 1;
  // b_k = (k+1)! phi_{k+2}(z) z / B(h), phi_{k+1} = (phi_k - 1/k!) / z (their eq. 11).
  double phi = weight / z - 1, factorial = 1;
  for (std::size_t k = 0; k < count; ++k) {
    b[k] = phi * factorial / scale;
    factorial *= static_cast<double>(k) + 2;
    phi = phi / z - 1 / factorial;
  }
  // With one difference the authors take 1/2 for the weight, whatever B(h).
  const UnipcVector a = count == 1 ? UnipcVector{0.5} : solve_vandermonde(r, b, count);
  for (std::size_t j = 0; j < past; ++j)
    total = total + scale * a[j] / r[j] * (nodes[j + 1].value - newest);
  if (corrects) total = total + scale * a[past] * (end - newest);
  return total;
}

// The step that is being walked, kept for the corrector.
struct UnipcStep {
  NoiseLevel from, to;
  at::Tensor x;  // at its start
  int64_t order = 1;
};

at::Tensor unipc_state(const UnipcStep& step, const std::deque<UnipcNode>& nodes,
                       const UnipcOptions& options, const at::Tensor& end) {
  const double h = step.to.log_snr() - step.from.log_snr();
  if (options.predict_noise)
    return step.to.alpha / step.from.alpha * step.x -
           step.to.sigma * unipc_integral(nodes, step.order, h, h, options.bh1, end);
  return step.to.sigma / step.from.sigma * step.x -
         step.to.alpha * unipc_integral(nodes, step.order, h, -h, options.bh1, end);
}

bool unipc_corrects(const UnipcOptions& options, const UnipcStep& step, int64_t index) {
  if (!options.corrector) return false;
  const bool from_noise = std::isinf(step.from.log_snr());
  if (from_noise && (options.bh1 || options.predict_noise)) return false;
  return std::find(options.disable_corrector.begin(), options.disable_corrector.end(),
                   index) == options.disable_corrector.end();
}

}  // namespace

at::Tensor solve_unipc(Model& model, const at::Tensor& latents, const Condition& condition,
                       const Schedule& schedule, const UnipcOptions& options) {
  const at::NoGradGuard no_grad;
  const Schedule knots = walked(schedule, options.final_sigma);
  DataPredictor predictor(model, condition, knots, latents);
  at::Tensor x = predictor.start(latents);
  std::deque<UnipcNode> nodes;
  UnipcStep step;
  const auto steps = static_cast<int64_t>(knots.times.size()) - 1;
  for (int64_t i = 0; i < steps; ++i) {
    const double knot = knots.times[static_cast<std::size_t>(i)];
    const NoiseLevel now = predictor.level(knot);
    const at::Tensor data = predictor.denoised(x, knot);
    const at::Tensor value =
        options.predict_noise ? (x - now.alpha * data) / now.sigma : data;
    if (i > 0 && unipc_corrects(options, step, i - 1))
      x = unipc_state(step, nodes, options, value);
    // A point of pure noise is infinitely far: no node for polynomials in lambda.
    if (!nodes.empty() && std::isinf(nodes.front().log_snr)) nodes.clear();
    nodes.push_front({now.log_snr(), value});
    if (nodes.size() > kUnipcNodes) nodes.pop_back();

    step = {now, predictor.level(knots.times[static_cast<std::size_t>(i) + 1]), x,
            std::min(options.order, static_cast<int64_t>(nodes.size()))};
    if (options.lower_order_final) step.order = std::min(step.order, steps - i);
    if (step.to.sigma == 0 || now.alpha == 0) {
      step.order = 1;
      const double kept = step.to.sigma / now.sigma;
      x = kept * x + (step.to.alpha - kept * now.alpha) * data;
    } else {
      x = unipc_state(step, nodes, options, {});
    }
  }
  return x;
}

namespace {

class Unipc : public Sampler {
 public:
  explicit Unipc(UnipcOptions options) : options_(std::move(options)) {}
  at::Tensor sample(Model& model, const at::Tensor& latents, const Condition& condition,
                    const Schedule& schedule, const Draw&) const override {
    return solve_unipc(model, latents, condition, schedule, options_)
        .to(latents.scalar_type());
  }
  int64_t evaluations(const ModelInfo&, const Schedule& schedule) const override {
    return static_cast<int64_t>(walked(schedule, options_.final_sigma).times.size()) - 1;
  }

 private:
  UnipcOptions options_;
};

}  // namespace

UnipcOptions read_unipc_options(const Config& options) {
  static const std::vector<std::string> types{"bh1", "bh2"};
  static const std::vector<std::string> predictions{"data", "noise"};
  UnipcOptions read;
  read.order = options.integer("order", 2, 1, 3);
  read.bh1 = options.choice("solver_type", types, "bh2") == "bh1";
  read.corrector = options.boolean("corrector", true);
  read.disable_corrector =
      options.integers("disable_corrector", std::vector<std::int64_t>{});
  read.lower_order_final = options.boolean("lower_order_final", true);
  read.predict_noise = options.choice("prediction", predictions, "data") == "noise";
  read.final_sigma = read_final_sigma(options);
  return read;
}

std::shared_ptr<Sampler> make_unipc(const Config& options) {
  return std::make_shared<Unipc>(read_unipc_options(options));
}

}  // namespace flowmap::samplers
