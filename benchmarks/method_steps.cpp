// What a step of each member of the flow-map family costs, as a multiple of a plain
// flow-matching step on the same network, and the memory of both: loss and gradients of one
// micro-batch, float32, no optimiser. The methods take turns, so that what else the machine
// does meets all alike. 25 % of the batch is off the diagonal unless --eta says otherwise.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "distill/method.h"
#include "benchmarks/bench_main.h"
#include "flowmap/base/config.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/draw.h"
#include "flowmap/model.h"
#include "flowmap/train/live_bytes.h"

namespace flowmap {
namespace {

constexpr const char* kUsage =
    R"(usage: bench_method_steps [--batch N] [--repeats R] [--threads N] [--eta X]
                          [--config FILE]
  --config  whose network is used (default: configs/fashion-mnist/compare/base.json)
)";

// One method with its data. Units: forward passes of one sample; a backward pass is two, a
// Jacobian-vector product two forwards, its backward pass four.
struct Row {
  const char* name;
  const char* method;  // JSON, without eta
  double off_units;    // of an off-diagonal sample; a diagonal one has 3
};
constexpr Row kRows[] = {
    {"flow_matching", R"({"type": "flow_matching"})", 3},
    {"lsd", R"({"type": "lsd"})", 7},
    {"lsd, derivative detached", R"({"type": "lsd", "stop_gradient": "detached"})", 5},
    {"esd", R"({"type": "esd"})", 9},
    {"psd", R"({"type": "psd"})", 5},
    {"meanflow", R"({"type": "meanflow", "weight": "none"})", 4},
};

struct Options {
  int64_t batch = 32, repeats = 9, threads = 0;
  double eta = 0.75;
  std::string config = "configs/fashion-mnist/compare/base.json";
};

class Step {
 public:
  Step(const Row& row, const Options& o) {
    Config config = Config::from_file(o.config);
    config.set_json("method", row.method, "benchmark");
    if (std::string(row.name) != "flow_matching")
      config.set_json("method.eta", format("%.10g", o.eta), "benchmark");
    DatasetInfo data;
    data.name = "random";
    data.sample_shape = {1, 28, 28};
    data.count = 1000;
    task_ = distill::make_method({config, data, 0});
    const Draw draw(1, 0, o.batch);
    batch_.x = draw.uniform("data", data.sample_shape) * 2 - 1;
    batch_.index = at::arange(o.batch);
  }
  void run() {
    Model& model = *task_->players()[0].model;
    for (at::Tensor& p : model.parameters()) {
      p.set_requires_grad(true);
      p.mutable_grad() = at::Tensor();
    }
    const Draw draw(2, 0, batch_.x.size(0));
    const StepContext step{{}, draw, batch_.x.size(0), 0, {}};
    task_->loss({"model", 1}, batch_, step).loss.backward();
  }
  double seconds() {
    const auto start = std::chrono::steady_clock::now();
    run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  double peak_mib() {
    const auto counter = std::make_shared<LiveBytes>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
    run();
    return static_cast<double>(counter->peak()) / (1 << 20);
  }

 private:
  std::shared_ptr<Task> task_;
  Batch batch_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

int run(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i += 2) {
    const std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") return std::fputs(kUsage, stdout) < 0;
    FM_CHECK_USAGE(i + 1 < argc, flag, " needs a value");
    const std::string value = argv[i + 1];
    if (flag == "--config")
      o.config = value;
    else if (flag == "--eta")
      o.eta = parse_double(value, flag);
    else if (flag == "--batch" || flag == "--repeats" || flag == "--threads")
      (flag == "--batch"     ? o.batch
       : flag == "--repeats" ? o.repeats
                             : o.threads) = parse_int_list(value, flag).front();
    else
      throw UsageError("unknown flag '" + flag + "'; see --help");
  }
  FM_CHECK_USAGE(std::filesystem::exists(o.config), o.config,
                 " is not there; run in the root of the checkout or give --config");
  if (o.threads > 0) at::set_num_threads(static_cast<int>(o.threads));
  std::vector<std::unique_ptr<Step>> steps;
  for (const Row& row : kRows) steps.push_back(std::make_unique<Step>(row, o));
  for (const auto& step : steps) step->run();  // warms up
  std::vector<std::vector<double>> ratios(steps.size());
  std::vector<double> plain;
  for (int64_t k = 0; k < o.repeats; ++k) {
    std::vector<double> took;
    for (const auto& step : steps) took.push_back(step->seconds());
    plain.push_back(took[0]);
    for (std::size_t i = 0; i < steps.size(); ++i) ratios[i].push_back(took[i] / took[0]);
  }
  std::printf("Plain step: %.3f s, batch %lld, %d thread(s), eta %g.\n\n", median(plain),
              static_cast<long long>(o.batch), at::get_num_threads(), o.eta);
  std::printf("| method | times a plain step | by counting passes | memory, MiB | times |\n"
              "|---|---:|---:|---:|---:|\n");
  double first = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const double mib = steps[i]->peak_mib();
    if (i == 0) first = mib;
    const auto [least, most] = std::minmax_element(ratios[i].begin(), ratios[i].end());
    const double eta = i == 0 ? 1 : o.eta;
    std::printf("| %s | %.2f (%.2f to %.2f) | %.2f | %.0f | %.2f |\n", kRows[i].name,
                median(ratios[i]), *least, *most,
                (3 * eta + kRows[i].off_units * (1 - eta)) / 3, mib, mib / first);
  }
  return 0;
}

}  // namespace
}  // namespace flowmap

int main(int argc, char** argv) {
  return flowmap::bench_main("bench_method_steps", flowmap::run, argc, argv);
}
