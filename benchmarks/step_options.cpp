// What two options of a training run cost and save on this processor, as ratios of the
// same step with and without, in turns:
//   checkpointing  gradient checkpointing: seconds and memory of a training step
//   channels_last  convolutions channels-last in memory: seconds of a forward and a step
// A step is the flow-matching loss and the gradients of all weights, no optimiser; images
// are CIFAR's size.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "benchmarks/bench_main.h"
#include "flowmap/base/config.h"
#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "flowmap/interpolant.h"
#include "flowmap/model.h"
#include "flowmap/precision.h"
#include "flowmap/train/live_bytes.h"

namespace flowmap {
namespace {

constexpr const char* kUsage =
    R"(usage: bench_step_options [--what checkpointing|channels_last] [--network NAME]
                          [--precision float32|bf16] [--batch N] [--repeats R]
                          [--threads N]

  Prints one Markdown row a measurement. By default: everything, batch 2, 5 repeats.
  NAME: ddpmpp (EDM's for CIFAR-10), adm, edm2 (128 channels, three levels), dit (S/2)
)";

struct Entry {
  const char* name;
  const char* network;
};
constexpr Entry kNetworks[] = {
    {"ddpmpp", R"({"type": "ddpmpp"})"},
    {"adm", R"({"type": "adm", "model_channels": 128, "channel_mult": [1, 2, 2],
                "num_blocks": 2, "attn_resolutions": [16, 8]})"},
    {"edm2", R"({"type": "edm2", "model_channels": 128, "channel_mult": [1, 2, 2],
                 "num_blocks": 2})"},
    {"dit", R"({"type": "dit", "preset": "S/2", "learn_sigma": false})"},
};

struct Options {
  std::string what, network, precision;
  int64_t batch = 2, repeats = 5, threads = 0;
};

// False: the help was printed.
bool read_options(int argc, char** argv, Options& o) {
  const std::map<std::string, std::string*> texts = {
      {"--what", &o.what}, {"--network", &o.network}, {"--precision", &o.precision}};
  const std::map<std::string, int64_t*> numbers = {
      {"--batch", &o.batch}, {"--repeats", &o.repeats}, {"--threads", &o.threads}};
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      std::fputs(kUsage, stdout);
      return false;
    }
    FM_CHECK_USAGE(texts.contains(flag) || numbers.contains(flag), "unknown flag '", flag,
                   "'; see --help");
    FM_CHECK_USAGE(i + 1 < argc, flag, " needs a value");
    const std::string value = argv[++i];
    if (texts.contains(flag)) {
      *texts.at(flag) = value;
      continue;
    }
    std::istringstream in(value);
    int64_t& number = *numbers.at(flag);
    FM_CHECK_USAGE(in >> number && in.eof() && number >= 1 && number <= 1 << 20, flag,
                   " takes a whole number from 1 on, not '", value, "'");
  }
  FM_CHECK_USAGE(o.what.empty() || o.what == "checkpointing" || o.what == "channels_last",
                 "--what is checkpointing or channels_last, not '", o.what, "'");
  const auto named = [&](const Entry& e) { return o.network == e.name; };
  FM_CHECK_USAGE(o.network.empty() || std::any_of(std::begin(kNetworks),
                                                  std::end(kNetworks), named),
                 "no network '", o.network, "' here; see --help");
  return true;
}

struct Variant {
  std::shared_ptr<Model> model;
  bool checkpointing = false;
};

struct Memory {
  double kept = 0, peak = 0;  // MiB: behind the forward; at most, gradients among it
};

class Workload {
 public:
  Workload(int64_t batch, std::string precision) : precision_(std::move(precision)) {
    const Draw draw(1, 0, batch);
    const std::vector<int64_t> shape = {3, 32, 32};
    t_ = draw.uniform("t", {});
    point_ = interpolate(draw.uniform("data", shape) * 2 - 1, draw.normal("noise", shape),
                         t_, 1);
  }

  double forward(Variant& v) const {
    const at::NoGradGuard no_grad;
    const AutocastGuard autocast(at::kCPU, type());
    Context context;
    return seconds_of([&] { v.model->velocity(point_.x, t_, {}, context); });
  }

  double step(Variant& v, Memory* memory = nullptr) const {
    for (at::Tensor& p : v.model->parameters()) p.mutable_grad() = at::Tensor();
    auto count = std::make_shared<LiveBytes>();
    std::unique_ptr<c10::DebugInfoGuard> counting;
    if (memory)
      counting = std::make_unique<c10::DebugInfoGuard>(
          c10::DebugInfoKind::PROFILER_STATE, count);
    const double seconds = seconds_of([&] {
      at::Tensor loss;
      {
        const AutocastGuard autocast(at::kCPU, type());
        Context context;
        context.train = true;
        context.gradient_checkpointing = v.checkpointing;
        const Dual out = v.model->velocity(point_.x, t_, {}, context);
        loss = (out.value - point_.target).square().sum();
      }
      if (memory) memory->kept = mebibytes(count->live());
      loss.backward();
    });
    if (memory) memory->peak = mebibytes(count->peak());
    return seconds;
  }

 private:
  at::ScalarType type() const { return parse_precision(precision_, "--precision").type; }
  static double mebibytes(int64_t bytes) {
    return static_cast<double>(bytes) / (1 << 20);
  }
  static double seconds_of(const std::function<void()>& run) {
    using clock = std::chrono::steady_clock;
    const auto start = clock::now();
    run();
    return std::chrono::duration<double>(clock::now() - start).count();
  }

  std::string precision_;
  Interpolated point_;
  at::Tensor t_;
};

Variant variant(const Entry& entry, bool checkpointing, bool channels_last) {
  Config spec;
  spec.set_json("network", entry.network, entry.name);
  spec.set_json("sample_shape", "[3, 32, 32]", entry.name);
  Variant v{make_model(spec, 0), checkpointing};
  // Layers that start at zero would make the way back a matter of zeros.
  const at::NoGradGuard no_grad;
  const Draw draw(2, 0, 1);
  for (auto& item : v.model->named_parameters())
    item.value().add_(draw.normal(item.key(), item.value().sizes()).squeeze(0), 0.02);
  if (channels_last) v.model->use_channels_last();
  return v;
}

// Median (least to greatest) of second / first, run in turns.
std::string ratios(int64_t repeats, const std::function<double()>& first,
                   const std::function<double()>& second) {
  std::vector<double> all;
  first();
  second();  // warms up
  for (int64_t i = 0; i < repeats; ++i) {
    const double base = first();
    all.push_back(second() / base);
  }
  std::sort(all.begin(), all.end());
  const std::size_t n = all.size();
  char text[80];
  std::snprintf(text, sizeof text, "%.2f (%.2f to %.2f)",
                (all[(n - 1) / 2] + all[n / 2]) / 2, all.front(), all.back());
  return text;
}

void measure_checkpointing(const Entry& entry, const std::string& precision,
                           const Options& o) {
  const Workload work(o.batch, precision);
  Variant plain = variant(entry, false, false);
  Variant again{plain.model, true};
  const std::string time = ratios(
      o.repeats, [&] { return work.step(plain); }, [&] { return work.step(again); });
  Memory without, with;
  work.step(plain, &without);
  work.step(again, &with);
  std::printf("| %s | %s | %s | %.0f -> %.0f | %.0f -> %.0f |\n", entry.name,
              precision.c_str(), time.c_str(), without.kept, with.kept, without.peak,
              with.peak);
  std::fflush(stdout);
}

void measure_channels_last(const Entry& entry, const std::string& precision,
                           const Options& o) {
  const Workload work(o.batch, precision);
  Variant rows = variant(entry, false, false), last = variant(entry, false, true);
  const std::string forward = ratios(
      o.repeats, [&] { return work.forward(rows); }, [&] { return work.forward(last); });
  const std::string step = ratios(
      o.repeats, [&] { return work.step(rows); }, [&] { return work.step(last); });
  std::printf("| %s | %s | %s | %s |\n", entry.name, precision.c_str(), forward.c_str(),
              step.c_str());
  std::fflush(stdout);
}

int run(int argc, char** argv) {
  Options o;
  if (!read_options(argc, argv, o)) return 0;
  if (o.threads > 0) at::set_num_threads(static_cast<int>(o.threads));
  std::vector<std::string> precisions = {"float32", "bf16"};
  if (!o.precision.empty()) precisions = {o.precision};
  std::printf("batch %lld, %d threads; medians (least to greatest) of %lld runs in "
              "turns\n", static_cast<long long>(o.batch), at::get_num_threads(),
              static_cast<long long>(o.repeats));
  for (const char* what : {"checkpointing", "channels_last"}) {
    if (!o.what.empty() && o.what != what) continue;
    const bool checkpointing = std::string(what) == "checkpointing";
    std::puts(checkpointing
                  ? "\n| checkpointing | | step, with / without | MiB kept for the way "
                    "back | MiB at most, without the weights |\n|---|---|---|---|---|"
                  : "\n| channels last / row-major | | forward | step |\n"
                    "|---|---|---|---|");
    for (const Entry& entry : kNetworks) {
      if (!o.network.empty() && o.network != entry.name) continue;
      // A transformer's convolution is a matrix product.
      if (!checkpointing && std::string(entry.name) == "dit") continue;
      for (const std::string& precision : precisions)
        (checkpointing ? measure_checkpointing : measure_channels_last)(entry, precision,
                                                                        o);
    }
  }
  return 0;
}

}  // namespace
}  // namespace flowmap

int main(int argc, char** argv) {
  return flowmap::bench_main("bench_step_options", flowmap::run, argc, argv);
}
