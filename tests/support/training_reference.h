// One group of reference/methods: tensors, and the cases of its JSON as configurations.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/tensor_io.h"
#include "tests/support/reference.h"

namespace flowmap::testing {

inline std::filesystem::path method_file(const std::string& group, const char* ending) {
  return reference_folder() / "methods" / (group + ending);
}

class MethodReference {
 public:
  explicit MethodReference(const std::string& group)
      : root_(Config::from_file(method_file(group, ".json"))),
        tensors_(load_tensors(method_file(group, ".safetensors"))) {
    for (const Config& item : root_.children("cases"))
      cases_.emplace(item.string("name"), item);
  }

  const at::Tensor& at(const std::string& name) const { return tensors_.at(name); }
  // A case and the settings of it; the case must be there.
  const Config& item(const std::string& name) const { return cases_.at(name); }
  Config config(const std::string& name) const { return item(name).child("config"); }
  // Names of the cases that start so.
  std::vector<std::string> names(const std::string& prefix) const {
    std::vector<std::string> found;
    for (const auto& [name, config] : cases_)
      if (name.starts_with(prefix)) found.push_back(name);
    return found;
  }

 private:
  Config root_;
  std::map<std::string, at::Tensor> tensors_;
  std::map<std::string, Config> cases_;
};

// Largest difference over the largest magnitude expected (1 where that is less).
inline double difference(const at::Tensor& got, const at::Tensor& expected) {
  if (!got.defined() || got.sizes() != expected.sizes()) return INFINITY;
  const at::Tensor want = expected.to(at::kDouble);
  const double most = (got.detach().to(at::kDouble) - want).abs().max().item<double>();
  // A NaN compares false with every limit; say so by a number that fails.
  if (std::isnan(most)) return INFINITY;
  return most / std::max(want.abs().max().item<double>(), 1.0);
}

}  // namespace flowmap::testing

// Skips the test where the group is not there.
#define FM_NEED_METHOD_REFERENCE(group) \
  FM_NEED_FILE(::flowmap::testing::method_file(group, ".safetensors"))
