// Reduced precision around a scope.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

namespace flowmap {

// How a run computes. Weights stay float32 unless `type` is double.
struct Precision {
  // kFloat, kDouble (the model itself is in it), or kBFloat16: convolutions and matrix
  // products run in it (autocast).
  at::ScalarType type = at::kFloat;
  // float32 products on tensor cores with 10 bits of mantissa (NVIDIA, Ampere and later);
  // no effect elsewhere.
  bool tf32 = false;

  at::ScalarType weights() const { return type == at::kDouble ? at::kDouble : at::kFloat; }
};

// "float32", "tf32", "bf16", "float64". Throws UsageError with what is known.
Precision parse_precision(const std::string& name, const std::string& what);
// The name again; "fp32" for float32 where `edm_names` (run folders).
std::string precision_name(const Precision& precision, bool edm_names = false);

// Autocast to `type` inside the scope, or none where type is no reduced one. Nested guards
// restore what they found.
class AutocastGuard {
 public:
  AutocastGuard(at::DeviceType device, at::ScalarType type);
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  at::DeviceType device_;
  bool enabled_before_;
  at::ScalarType type_before_;
};

// Autocast and TF32 as `precision` says. TF32 is a setting of the process that products
// look up when they run: a backward pass outside the scope follows the setting there.
class PrecisionGuard {
 public:
  PrecisionGuard(at::DeviceType device, const Precision& precision);
  ~PrecisionGuard();
  PrecisionGuard(const PrecisionGuard&) = delete;
  PrecisionGuard& operator=(const PrecisionGuard&) = delete;

 private:
  AutocastGuard autocast_;
  bool convolutions_before_, products_before_;
};

}  // namespace flowmap
