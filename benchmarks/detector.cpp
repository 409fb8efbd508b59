// Pictures through the 2015 Inception, for benchmarks/compare_detector: one command a
// line on the standard input, its seconds (peak: GFLOP/s) on the standard output.
//   bench_detector WEIGHTS BATCH EDGE THREADS MODE LAYER
//   all             resize and features of one batch
//   resize          resize alone
//   features FILE   writes them as safetensors
//   peak            float32 rate of a 3x3 convolution of 192 channels (oneDNN)
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>

#include "flowmap/base/config.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/tensor_io.h"
#include "metrics/detectors/inception_network.h"
#include "metrics/metric.h"
#include "metrics/resize.h"

using namespace flowmap;
using namespace flowmap::metrics;

namespace {

template <class Work>
double seconds(Work work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The best of a few: what the machine can do when it is let.
double peak_gflops() {
  const at::NoGradGuard no_grad;
  const at::Tensor x =
      at::rand({8, 192, 16, 16}).contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor w =
      at::rand({192, 192, 3, 3}).contiguous(at::MemoryFormat::ChannelsLast);
  double best = 1e9;
  for (int i = 0; i < 20; ++i)
    best = std::min(best, seconds([&] { at::conv2d(x, w, {}, 1, 1); }));
  return 2.0 * 8 * 256 * 192 * 192 * 9 / best / 1e9;
}

int serve(char** argv) {
  const int64_t batch = parse_int(argv[2], "BATCH"), edge = parse_int(argv[3], "EDGE");
  at::set_num_threads(static_cast<int>(parse_int(argv[4], "THREADS")));
  const std::string mode = argv[5], layer = argv[6];
  Config options;
  options.set_override(std::string("path=") + argv[1], "command line");
  options.set_override("mode=" + mode, "command line");
  const auto detector = make_detector("inception", options);
  const at::Tensor pictures = at::arange(batch * 3 * edge * edge)
                                  .mul(2654435761)
                                  .remainder(251)
                                  .to(at::kByte)
                                  .view({batch, 3, edge, edge});
  const auto features = [&] { return detector->features(pictures, {&layer, 1})[0]; };
  features();  // packs the weights
  std::printf("%.6g\n", 2 * InceptionNetwork::multiply_adds(
                                layer == "2048" ? "mixed_10" : "mixed_7"));
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command, file;
    words >> command >> file;
    double result = 0;
    if (command == "all") {
      result = seconds(features);
    } else if (command == "resize") {
      result = seconds([&] {
        resize_pictures(pictures, parse_resize_mode(mode, "MODE"), 299, 299,
                        PixelScale::network);
      });
    } else if (command == "features") {
      save_tensors(file, {{layer, features()}});
    } else if (command == "peak") {
      result = peak_gflops();
    } else {
      throw UsageError("unknown command '" + command + "'");
    }
    std::printf("%.6g\n", result);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 7) {
    std::fprintf(stderr,
                 "usage: bench_detector WEIGHTS BATCH EDGE THREADS MODE LAYER\n");
    return 2;
  }
  try {
    return serve(argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
