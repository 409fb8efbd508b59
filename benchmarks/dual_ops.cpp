// What a directional derivative costs in training: forward and backward of four blocks
// (3x3 convolution of 64 channels, group norm, SiLU) on 16 images of 28x28, with the loss
// on the value alone, or on value and tangent together. Prints times as multiples of the
// first.
//   plain        value only
//   dual         flowmap::ops
//   composition  the same rules written out operation by operation
//   forward_mode LibTorch's forward mode under reverse mode
#include <benchmark/benchmark.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/forward_grad.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "flowmap/draw.h"
#include "flowmap/ops.h"

namespace flowmap {
namespace {

constexpr int64_t kBatch = 16, kChannels = 64, kSide = 28, kGroups = 16, kBlocks = 4;
constexpr double kEps = 1e-5;

struct Block {
  at::Tensor weight, bias, gain, shift;
};

struct Network {
  std::vector<Block> blocks;
  std::vector<at::Tensor> parameters;
  at::Tensor x, xd, value_weight, tangent_weight;

  Network() {
    const Draw draw(1, 0, 1);
    const auto make = [&](const std::string& name, at::IntArrayRef shape, double size) {
      return draw.normal(name, shape).squeeze(0) * size;
    };
    const auto parameter = [&](const std::string& name, at::IntArrayRef shape,
                               double size, double offset) {
      parameters.push_back((make(name, shape, size) + offset).requires_grad_());
      return parameters.back();
    };
    for (int64_t i = 0; i < kBlocks; ++i) {
      const std::string id = std::to_string(i);
      blocks.push_back({parameter("w" + id, {kChannels, kChannels, 3, 3}, 0.04, 0),
                        parameter("b" + id, {kChannels}, 0.1, 0),
                        parameter("g" + id, {kChannels}, 0.1, 1),
                        parameter("s" + id, {kChannels}, 0.1, 0)});
    }
    const std::vector<int64_t> shape = {kBatch, kChannels, kSide, kSide};
    x = make("x", shape, 1);
    xd = make("xd", shape, 1);
    value_weight = make("r1", shape, 1);
    tangent_weight = make("r2", shape, 1);
  }

  std::vector<at::Tensor> gradient(const at::Tensor& loss) const {
    return torch::autograd::grad({loss}, parameters);
  }
  std::vector<at::Tensor> mixed_gradient(const at::Tensor& y,
                                         const at::Tensor& yd) const {
    return gradient((value_weight * y).sum() + (tangent_weight * yd).sum());
  }
};

at::Tensor convolution(const at::Tensor& x, const Block& b, const at::Tensor& bias) {
  return at::conv2d(x, b.weight, bias, {1, 1}, at::IntArrayRef{1, 1});
}

std::vector<at::Tensor> plain(const Network& net) {
  at::Tensor h = net.x;
  for (const Block& b : net.blocks)
    h = at::silu(
        at::group_norm(convolution(h, b, b.bias), kGroups, b.gain, b.shift, kEps));
  return net.gradient((net.value_weight * h).sum());
}

std::vector<at::Tensor> dual(const Network& net) {
  Dual h{net.x, net.xd};
  for (const Block& b : net.blocks)
    h = ops::silu(ops::group_norm(ops::conv2d(h, b.weight, b.bias, 1), kGroups, b.gain,
                                  b.shift, kEps));
  return net.mixed_gradient(h.value, h.tangent);
}

std::vector<at::Tensor> composition(const Network& net) {
  at::Tensor h = net.x, hd = net.xd;
  const auto grouped = [](const at::Tensor& t) {
    return t.reshape({kBatch, kGroups, -1});
  };
  const auto imaged = [](const at::Tensor& t) {
    return t.reshape({kBatch, kChannels, kSide, kSide});
  };
  for (const Block& b : net.blocks) {
    const auto both = convolution(at::cat({h, hd}, 0), b, {}).chunk(2, 0);
    const at::Tensor x = grouped(both[0] + b.bias.view({1, -1, 1, 1}));
    const at::Tensor u = grouped(both[1]);
    const at::Tensor centred = x - x.mean(-1, true);
    const at::Tensor r = (centred.square().mean(-1, true) + kEps).rsqrt();
    const at::Tensor xhat = centred * r;
    const at::Tensor ud = (u - u.mean(-1, true) - xhat * (xhat * u).mean(-1, true)) * r;
    const at::Tensor gain = b.gain.view({1, -1, 1, 1});
    const at::Tensor z = imaged(xhat) * gain + b.shift.view({1, -1, 1, 1});
    const at::Tensor zd = imaged(ud) * gain, s = z.sigmoid();
    h = z * s;
    hd = zd * (s + h * (1 - s));
  }
  return net.mixed_gradient(h, hd);
}

std::vector<at::Tensor> forward_mode(const Network& net) {
  const auto level = torch::autograd::ForwardADLevel::get_next_idx();
  const auto id = static_cast<int64_t>(level);
  at::Tensor y, yd;
  {
    at::Tensor h = at::_make_dual(net.x, net.xd, id);
    for (const Block& b : net.blocks)
      h = at::silu(
          at::group_norm(convolution(h, b, b.bias), kGroups, b.gain, b.shift, kEps));
    std::tie(y, yd) = at::_unpack_dual(h, id);
  }
  // Before the backward pass: silu_backward has no forward rule and would throw.
  torch::autograd::ForwardADLevel::release_idx(level);
  return net.mixed_gradient(y, yd);
}

using Step = std::vector<at::Tensor> (*)(const Network&);

void run_step(benchmark::State& state, Step step) {
  static const Network network;
  for (auto _ : state) benchmark::DoNotOptimize(step(network));
}

// Least time of each, for the ratios at the end: on a busy machine the least is the one
// nearest to the truth.
class Ratios : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration || run.error_occurred) continue;
      const double time = run.GetAdjustedRealTime();
      const auto [entry, fresh] = least_.emplace(run.run_name.function_name, time);
      if (!fresh) entry->second = std::min(entry->second, time);
    }
  }
  void print() const {
    if (!least_.contains("plain")) return;
    for (const auto& [name, time] : least_)
      std::printf("%-14s %8.2f ms  %.2f x plain\n", name.c_str(), time,
                  time / least_.at("plain"));
  }

 private:
  std::map<std::string, double> least_;
};

// The three ways must agree before their times mean anything.
bool agree() {
  const Network network;
  const auto want = forward_mode(network);
  bool good = true;
  for (const Step step : {dual, composition}) {
    const auto got = step(network);
    double worst = 0;
    for (std::size_t i = 0; i < want.size(); ++i)
      worst =
          std::max(worst, ((got[i] - want[i]).norm() / want[i].norm()).item<double>());
    std::printf("gradient against forward_mode: %.1e relative\n", worst);
    good = good && worst < 1e-4;
  }
  return good;
}

}  // namespace
}  // namespace flowmap

int main(int argc, char** argv) {
  using namespace flowmap;
  const std::map<std::string, Step> steps = {{"plain", plain},
                                             {"dual", dual},
                                             {"composition", composition},
                                             {"forward_mode", forward_mode}};
  for (const auto& [name, step] : steps)
    benchmark::RegisterBenchmark(name.c_str(), run_step, step)
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime()
        ->MinTime(0.5)
        ->Repetitions(5);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  std::printf("threads: %d\n", at::get_num_threads());
  if (!agree()) {
    std::fprintf(stderr, "the gradients disagree; no times are reported\n");
    return EXIT_FAILURE;
  }
  Ratios ratios;
  benchmark::RunSpecifiedBenchmarks(&ratios);
  ratios.print();
  return EXIT_SUCCESS;
}
