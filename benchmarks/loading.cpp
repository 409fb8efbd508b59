// How long a file of weights takes until its network can be evaluated: load_snapshot, which
// reads every weight once (it refuses those that are not finite).
//   bench_loading make CONFIG FILE   random weights of the architecture
//   bench_loading load FILE          prints the seconds
#include <ATen/ATen.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "flowmap/nn/init.h"
#include "flowmap/preconditioning.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/snapshot.h"

using namespace flowmap;

namespace {

void make(const std::string& config, const std::string& file) {
  const Config spec = Config::from_file(config);
  const ShapesOnly shapes;
  const auto model = build_model(spec);
  TensorMap tensors;
  const auto add = [&](const std::string& name, const at::Tensor& shape) {
    tensors[name] = shape.is_meta() ? at::empty(shape.sizes(), at::kFloat).uniform_(-1, 1)
                                    : shape;
  };
  for (const auto& item : model->named_parameters()) add(item.key(), item.value());
  for (const auto& item : model->named_buffers()) add(item.key(), item.value());
  save_tensors(file, tensors, snapshot_metadata(spec.resolved_json(-1), {}));
}

void load(const std::string& file) {
  const auto start = std::chrono::steady_clock::now();
  const Snapshot snapshot = load_snapshot(file);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%.4f %lld\n", seconds,
              static_cast<long long>(parameter_count(*snapshot.model)));
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "make" && argc == 4) {
    make(argv[2], argv[3]);
  } else if (what == "load" && argc == 3) {
    load(argv[2]);
  } else {
    std::fprintf(stderr, "usage: bench_loading make CONFIG FILE | load FILE\n");
    return 2;
  }
  return 0;
}
