#include "flowmap/precision.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include "flowmap/base/error.h"

namespace flowmap {

AutocastGuard::AutocastGuard(at::DeviceType device, at::ScalarType type)
    : device_(device),
      enabled_before_(at::autocast::is_autocast_enabled(device)),
      type_before_(at::autocast::get_autocast_dtype(device)) {
  const bool reduced = type == at::kBFloat16 || type == at::kHalf;
  at::autocast::set_autocast_enabled(device, reduced);
  if (reduced) at::autocast::set_autocast_dtype(device, type);
  at::autocast::increment_nesting();
}

AutocastGuard::~AutocastGuard() {
  // The outermost guard drops the cached casts of the weights.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, enabled_before_);
  at::autocast::set_autocast_dtype(device_, type_before_);
}

at::ScalarType parse_precision(const std::string& name, const std::string& what) {
  if (name == "float32") return at::kFloat;
  if (name == "bf16") return at::kBFloat16;
  if (name == "float64") return at::kDouble;
  throw UsageError(what + ": unknown precision '" + name +
                   "'; known: float32, bf16, float64");
}

}  // namespace flowmap
