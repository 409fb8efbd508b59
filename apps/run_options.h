// Flags that verbs running a network share.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>

#include "flowmap/train/snapshot.h"

namespace flowmap::apps {

// "cpu", "cuda", "cuda:1", or "" for CUDA where there is a device. `what` names the flag
// or key in errors. Throws UsageError.
at::Device parse_device(const std::string& text, const std::string& what = "--device");
bool cuda_available();

// Throws UsageError where `path`, given by `flag`, is "", not there, or a folder.
void require_file(const std::filesystem::path& path, const std::string& flag);

// Loads a snapshot (--network) onto `device` in `precision`: float64 turns the weights
// into doubles; bf16 keeps float32 weights for autocast. TF32 is switched off. Throws
// UsageError where there is no such file, DataError on another content.
Snapshot load_model(const std::filesystem::path& network, at::Device device,
                    at::ScalarType precision);

// Makes the folder that `path` goes into. Throws UsageError where a regular file stands
// at `path` already and `overwrite` is not set.
void prepare_output(const std::filesystem::path& path, bool overwrite,
                    const std::string& flag);
// Throws UsageError unless the name ends so (".png", any case).
void require_ending(const std::filesystem::path& path, const std::string& ending,
                    const std::string& flag);

}  // namespace flowmap::apps
