// CPU seconds of the distances between sets of features, from a file that
// peers/distance.py writes: mu1, sigma1, mu2, sigma2 (case names before a slash), and
// features "sets/real", "sets/fake". One line a measurement: name, value, CPU seconds.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>

#include "benchmarks/bench_main.h"
#include "flowmap/base/error.h"
#include "flowmap/tensor_io.h"
#include "metrics/frechet.h"
#include "metrics/kid.h"
#include "metrics/precision_recall.h"

namespace flowmap {
namespace {

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The least of `repeats`: what else the machine does only adds.
void measure(const std::string& name, int repeats, const std::function<double()>& run) {
  double best = 0, value = 0;
  for (int k = 0; k < repeats; ++k) {
    const double begin = cpu_seconds();
    value = run();
    const double seconds = cpu_seconds() - begin;
    best = k == 0 ? seconds : std::min(best, seconds);
  }
  std::printf("%s %.17g %.4f\n", name.c_str(), value, best);
  std::fflush(stdout);
}

int run_distance(int argc, char** argv) {
  FM_CHECK_USAGE(argc == 3, "usage: bench_distance FILE REPEATS");
  at::set_num_threads(1);
  const auto tensors = load_tensors(argv[1]);
  const int repeats = std::stoi(argv[2]);
  for (const auto& [name, tensor] : tensors) {
    const auto slash = name.find("/mu1");
    if (slash == std::string::npos) continue;
    const std::string prefix = name.substr(0, slash);
    metrics::FeatureSet first, second;
    first.count = second.count = 2;  // scatter = covariance
    first.mean = tensor;
    first.scatter = tensors.at(prefix + "/sigma1");
    second.mean = tensors.at(prefix + "/mu2");
    second.scatter = tensors.at(prefix + "/sigma2");
    measure(prefix, repeats, [&] { return metrics::frechet_distance(first, second); });
  }
  const at::Tensor real = tensors.at("sets/real"), fake = tensors.at("sets/fake");
  measure("kid", repeats, [&] { return metrics::kernel_distance(real, fake).value; });
  measure("precision", repeats,
          [&] { return metrics::precision_recall(real, fake, 3, true).precision; });
  return 0;
}

}  // namespace
}  // namespace flowmap

int main(int argc, char** argv) {
  return flowmap::bench_main("bench_distance", flowmap::run_distance, argc, argv);
}
