// The stored feature sets; sets.json has the numbers that other tools give for them.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

#include "flowmap/tensor_io.h"
#include "tests/support/reference.h"

namespace flowmap::testing {

inline std::filesystem::path metric_reference(const std::string& name) {
  return reference_folder() / "metrics" / name;
}

inline std::filesystem::path golden_pool3() {
  return data_folder() / "inception" / "pool3_golden_roses_tulips.safetensors";
}

struct StoredSet {
  at::Tensor real, fake, subsets;
};

// "mixture", "fid64", "ties", or "golden_pool3", whose features are real data.
inline StoredSet stored_set(const std::string& name) {
  const auto tensors = load_tensors(metric_reference("sets.safetensors"));
  StoredSet set;
  if (name == "golden_pool3") {
    const auto photos = load_tensors(golden_pool3());
    set.real = photos.at("roses");
    set.fake = photos.at("tulips");
  } else {
    set.real = tensors.at(name + "/real");
    set.fake = tensors.at(name + "/fake");
  }
  set.subsets = tensors.at(name + "/kid_subsets");
  return set;
}

}  // namespace flowmap::testing
