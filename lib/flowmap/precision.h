// Reduced precision: autocast around a scope.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace flowmap {

// "float32" (autocast off) or "bf16": convolutions and matrix products inside the scope
// run in that type, weights stay float32. Nested guards restore what they found.
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

// "float32", "bf16", "float64". Throws UsageError with what is known.
at::ScalarType parse_precision(const std::string& name, const std::string& what);

}  // namespace flowmap
