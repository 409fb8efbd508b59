#include "flowmap/precision.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
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

PrecisionGuard::PrecisionGuard(at::DeviceType device, const Precision& precision)
    : autocast_(device, precision.type),
      convolutions_before_(at::globalContext().allowTF32CuDNN()),
      products_before_(at::globalContext().allowTF32CuBLAS()) {
  at::globalContext().setAllowTF32CuDNN(precision.tf32);
  at::globalContext().setAllowTF32CuBLAS(precision.tf32);
}

PrecisionGuard::~PrecisionGuard() {
  at::globalContext().setAllowTF32CuDNN(convolutions_before_);
  at::globalContext().setAllowTF32CuBLAS(products_before_);
}

Precision parse_precision(const std::string& name, const std::string& what) {
  if (name == "float32") return {at::kFloat, false};
  if (name == "tf32") return {at::kFloat, true};
  if (name == "bf16") return {at::kBFloat16, false};
  if (name == "float64") return {at::kDouble, false};
  throw UsageError(what + ": unknown precision '" + name +
                   "'; known: float32, tf32, bf16, float64");
}

std::string precision_name(const Precision& precision, bool edm_names) {
  if (precision.type == at::kBFloat16) return "bf16";
  if (precision.type == at::kDouble) return "float64";
  if (precision.tf32) return "tf32";
  return edm_names ? "fp32" : "float32";
}

}  // namespace flowmap
