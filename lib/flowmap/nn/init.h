// How weights start: every parameter from (seed, its name), so that the same seed gives the
// same weights whatever else the network holds.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <memory>
#include <string>

#include "flowmap/network.h"

namespace flowmap {

// Uniform or normal with variance 1 / fan_in (kaiming), 2 / (fan_in + fan_out) (xavier);
// lecun_truncated: normal cut at two deviations, rescaled to variance 1 / fan_in.
enum class InitMode {
  kaiming_normal,
  kaiming_uniform,
  xavier_normal,
  xavier_uniform,
  lecun_truncated
};

struct Init {
  InitMode mode = InitMode::kaiming_normal;
  double weight = 1;  // factors; 0 starts at exactly zero
  double bias = 0;
};

// float32 on the CPU, drawn from (seed, "init/" + name).
at::Tensor draw_init(std::uint64_t seed, const std::string& name, at::IntArrayRef shape,
                     int64_t fan_in, int64_t fan_out, InitMode mode);

// float32 on the CPU, or without memory on the meta device while this thread has a
// ShapesOnly: every layer makes its weights by it.
at::TensorOptions weight_options();

// While one lives, networks built by this thread have shapes but no numbers: parameters
// and multiply-adds of the largest are counted in no time. They cannot be evaluated, and
// drawing weights leaves them alone.
class ShapesOnly {
 public:
  ShapesOnly();
  ~ShapesOnly();
  ShapesOnly(const ShapesOnly&) = delete;
  ShapesOnly& operator=(const ShapesOnly&) = delete;

 private:
  bool outer_;
};

// A module that draws its own parameters (not its children's).
class Initialised {
 public:
  virtual ~Initialised() = default;
  // `name` is the module's name from the root, without a trailing dot.
  virtual void initialise(std::uint64_t seed, const std::string& name) = 0;
};

// Draws the weights of every Initialised module below and including `root`.
void initialise_weights(torch::nn::Module& root, std::uint64_t seed);

// The network that options.type names, weights not drawn yet. Throws UsageError.
std::shared_ptr<Network> build_network(const Config& options, const NetworkShape& shape);

}  // namespace flowmap
