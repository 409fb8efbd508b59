// Flags that verbs running a network share.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <vector>

#include "flowmap/precision.h"
#include "flowmap/train/snapshot.h"

namespace CLI {
class App;
}

namespace flowmap::apps {

// "cpu", "cuda", "cuda:1", or "" for CUDA where there is a device. `what` names the flag
// or key in errors. Throws UsageError.
at::Device parse_device(const std::string& text, const std::string& what = "--device");
bool cuda_available();

// Throws UsageError where `path`, given by `flag`, is "", not there, or a folder.
void require_file(const std::filesystem::path& path, const std::string& flag);

// --network and what may have to be said beside it.
struct NetworkFlags {
  std::string network, key, arch;
  std::vector<std::string> arch_options;
  bool channels_last = false;
  std::string adapter;    // of --adapter
  bool force = false;     // an adapter of another network
};
// Adds them to a verb; the file's flag is `name` ("--network", "--source", or "FILE").
void add_network_flags(CLI::App& app, NetworkFlags& flags, const std::string& name);
// --adapter; whether it may be another network's is the verb's --force.
void add_adapter_flag(CLI::App& app, NetworkFlags& flags);
// Throws UsageError where there is neither a file nor a folder of that name; `flag` names it.
void require_network(const NetworkFlags& flags, const std::string& flag = "--network");
// Throws UsageError on --arch-options that are neither KEY=VALUE nor a JSON object.
LoadOptions load_options(const NetworkFlags& flags);

// Loads weights of any format that load_snapshot knows onto `device`, in the type of
// weights that `precision` wants, the adapter merged into them. Throws UsageError where
// there is no such file, DataError on another content.
Snapshot load_model(const NetworkFlags& flags, at::Device device,
                    const Precision& precision);

// Makes the folder that `path` goes into. Throws UsageError where a regular file stands
// at `path` already and `overwrite` is not set.
void prepare_output(const std::filesystem::path& path, bool overwrite,
                    const std::string& flag);
// Throws UsageError unless the name ends so (".png", any case).
void require_ending(const std::filesystem::path& path, const std::string& ending,
                    const std::string& flag);

}  // namespace flowmap::apps
