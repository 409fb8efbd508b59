// Reads one file of reference/networks: weights, inputs, and what the peer's program said.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/module.h>

#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "flowmap/formats/safetensors.h"
#include "flowmap/tensor_io.h"
#include "tests/support/reference.h"

namespace flowmap::testing {

inline std::filesystem::path network_file(const std::string& name) {
  return reference_folder() / "networks" / (name + ".safetensors");
}

struct NetworkReference {
  std::map<std::string, at::Tensor> tensors;
  std::string config, state_order, cases;  // metadata, JSON

  explicit NetworkReference(const std::string& name)
      : tensors(load_tensors(network_file(name))) {
    const SafetensorsReader reader(network_file(name));
    const auto metadata = [&](const char* key) {
      const auto found = reader.metadata().find(key);
      return found == reader.metadata().end() ? std::string() : found->second;
    };
    config = metadata("config");
    state_order = metadata("state_order");
    cases = metadata("cases");
  }

  bool has(const std::string& name) const { return tensors.count(name) > 0; }
  const at::Tensor& at(const std::string& name) const { return tensors.at(name); }
  // Undefined where the file has none.
  at::Tensor input(const std::string& name) const {
    const auto found = tensors.find("input." + name);
    return found == tensors.end() ? at::Tensor() : found->second;
  }
};

// Largest difference over the largest magnitude of `expected`.
inline double relative_error(const at::Tensor& got, const at::Tensor& expected) {
  if (!got.defined() || got.sizes() != expected.sizes()) return INFINITY;
  const at::Tensor want = expected.to(at::kDouble);
  return (got.detach().to(at::kDouble) - want).abs().max().item<double>() /
         want.abs().max().item<double>();
}

// Fills every parameter and buffer of `module` from the file's tensors called `prefix` +
// name; each must be there, in the file's order, and nothing below `prefix` may be left
// over.
inline void load_weights(torch::nn::Module& module, const NetworkReference& reference,
                         const std::string& prefix, const std::string& file_root) {
  const at::NoGradGuard no_grad;
  std::set<std::string> used;
  std::size_t position = 0;
  const auto fill = [&](const std::string& name, at::Tensor target, bool ordered) {
    const std::string key = prefix + name;
    ASSERT_TRUE(reference.has(key)) << key << " is not in the file";
    ASSERT_EQ(reference.at(key).sizes(), target.sizes()) << key;
    target.copy_(reference.at(key));
    used.insert(key);
    if (!ordered || reference.state_order.empty()) return;
    const std::size_t found = reference.state_order.find("\"" + key + "\"");
    ASSERT_NE(found, std::string::npos) << key;
    EXPECT_GE(found, position) << key << " is registered out of order";
    position = found;
  };
  for (auto& item : module.named_parameters()) fill(item.key(), item.value(), true);
  for (auto& item : module.named_buffers()) fill(item.key(), item.value(), false);
  for (const auto& [key, value] : reference.tensors)
    if (!file_root.empty() && key.starts_with(file_root)) {
      EXPECT_TRUE(used.count(key)) << key << " is not in the network";
    }
}

}  // namespace flowmap::testing
