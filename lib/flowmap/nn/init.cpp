#include "flowmap/nn/init.h"

#include <ATen/ATen.h>

#include <cmath>
#include <span>

#include "flowmap/base/error.h"
#include "flowmap/base/rng.h"

namespace flowmap {

namespace {

// Standard normal cut at +-2, rescaled to unit variance, by the inverse of its
// distribution function at u in [0, 1).
at::Tensor truncated_normal_from_uniform(const at::Tensor& u) {
  constexpr double kDeviation = 0.87962566103423978;  // of the cut normal
  const double edge = std::erf(2 / std::sqrt(2.0));
  const at::Tensor centred = (u.to(at::kDouble) * 2 - 1) * edge;
  return (at::erfinv(centred) * (std::sqrt(2.0) / kDeviation)).to(at::kFloat);
}

thread_local bool shapes_only = false;

}  // namespace

at::TensorOptions weight_options() {
  return at::TensorOptions(at::kFloat).device(shapes_only ? at::kMeta : at::kCPU);
}

ShapesOnly::ShapesOnly() : outer_(shapes_only) { shapes_only = true; }
ShapesOnly::~ShapesOnly() { shapes_only = outer_; }

at::Tensor draw_init(std::uint64_t seed, const std::string& name, at::IntArrayRef shape,
                     int64_t fan_in, int64_t fan_out, InitMode mode) {
  at::Tensor numbers = at::empty(shape, at::kFloat);
  const std::span<float> out(numbers.data_ptr<float>(),
                             static_cast<std::size_t>(numbers.numel()));
  const std::uint64_t stream = stream_id("init/" + name);
  const double in = static_cast<double>(fan_in);
  const double mean_fan = 0.5 * static_cast<double>(fan_in + fan_out);
  switch (mode) {
    case InitMode::kaiming_normal:
      philox_normals(seed, stream, 0, out);
      return numbers.mul_(std::sqrt(1 / in));
    case InitMode::xavier_normal:
      philox_normals(seed, stream, 0, out);
      return numbers.mul_(std::sqrt(1 / mean_fan));
    case InitMode::kaiming_uniform:
      philox_uniforms(seed, stream, 0, out);
      return numbers.mul_(2).sub_(1).mul_(std::sqrt(3 / in));
    case InitMode::xavier_uniform:
      philox_uniforms(seed, stream, 0, out);
      return numbers.mul_(2).sub_(1).mul_(std::sqrt(3 / mean_fan));
    case InitMode::lecun_truncated:
      philox_uniforms(seed, stream, 0, out);
      return truncated_normal_from_uniform(numbers).mul_(std::sqrt(1 / in));
  }
  throw Error("draw_init: unknown mode");
}

void initialise_weights(torch::nn::Module& root, std::uint64_t seed) {
  if (shapes_only) return;
  const at::NoGradGuard no_grad;
  if (auto* self = dynamic_cast<Initialised*>(&root)) self->initialise(seed, "");
  for (const auto& item : root.named_modules("", /*include_self=*/false))
    if (auto* module = dynamic_cast<Initialised*>(item.value().get()))
      module->initialise(seed, item.key());
}

}  // namespace flowmap
