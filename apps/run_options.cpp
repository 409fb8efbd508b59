#include "apps/run_options.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <CLI/CLI.hpp>
#include <system_error>

#include "apps/cli.h"
#include "flowmap/base/config.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/train/adapter.h"

namespace flowmap::apps {

bool cuda_available() { return at::globalContext().hasCUDA(); }

at::Device parse_device(const std::string& text, const std::string& what) {
  if (text.empty()) return cuda_available() ? at::Device(at::kCUDA, 0) : at::kCPU;
  at::Device device = at::kCPU;
  try {
    device = at::Device(text);
  } catch (const c10::Error&) {
    throw UsageError(what + ": unknown device '" + text + "'; known: cpu, cuda, cuda:N");
  }
  if (device.is_cpu()) return device;
  if (!device.is_cuda())
    throw UsageError(what + ": '" + text + "' is not supported; known: cpu, cuda, cuda:N");
  if (!cuda_available())
    throw UsageError(what + ": no CUDA device (or a LibTorch without CUDA); use "
                     "cpu, or see 'flowmap doctor'");
  if (!device.has_index()) device.set_index(0);
  const int count = at::detail::getCUDAHooks().deviceCount();
  FM_CHECK_USAGE(device.index() < count, what, ": ", text, ", but there are ", count,
                 " CUDA devices");
  return device;
}

void require_file(const std::filesystem::path& path, const std::string& flag) {
  FM_CHECK_USAGE(!path.empty(), flag, ": the name of a file is expected, not an empty "
                 "text");
  std::error_code ignored;
  FM_CHECK_USAGE(std::filesystem::exists(path, ignored), flag, ": ", path.string(),
                 " does not exist");
  FM_CHECK_USAGE(!std::filesystem::is_directory(path, ignored), flag, ": ",
                 path.string(), " is a folder; a file is expected");
}

namespace {

// The weights of a training state have the names of a network and no description of it.
void refuse_training_state(const std::filesystem::path& network) {
  const auto folder = std::filesystem::absolute(network).parent_path();
  if (std::filesystem::exists(folder / "state.json") ||
      folder.filename().string().starts_with("training-state"))
    throw DataError(network.string(), {}, "weights to run",
                    "a part of a training state; take network-snapshot-*.safetensors of "
                    "the run");
}

}  // namespace

void add_network_flags(CLI::App& app, NetworkFlags& flags, const std::string& name) {
  app.add_option(name, flags.network,
                 "weights: a snapshot, safetensors, a pickle of EDM or EDM2, a torch.save "
                 "file, or a folder of diffusers")
      ->required();
  app.add_option("--key", flags.key,
                 "which network of the file: ema, model.net, ... (default: an average)");
  app.add_option("--arch", flags.arch,
                 "whose tensors these are, where that cannot be seen: dit, sit, edm, ...");
  app.add_option("--arch-options", flags.arch_options,
                 "what shapes cannot tell: network.num_heads=4, preconditioning.type=vp, "
                 "... (may be repeated), or a JSON object");
}

void add_adapter_flag(CLI::App& app, NetworkFlags& flags) {
  app.add_option("--adapter", flags.adapter,
                 "adapter-snapshot-*.safetensors of a run with \"lora\", merged into the "
                 "network that the run started from (another one: --force)")
      ->check(not_empty());
}

void require_network(const NetworkFlags& flags, const std::string& flag) {
  if (!std::filesystem::is_directory(flags.network)) require_file(flags.network, flag);
}

LoadOptions load_options(const NetworkFlags& flags) {
  LoadOptions options;
  options.key = flags.key;
  options.hints.arch = flags.arch;
  Config given;
  for (const std::string& text : flags.arch_options) {
    if (text.starts_with("{"))
      given.merge(Config::from_text(text, "--arch-options"));
    else
      under_flag("--arch-options", [&] { given.set_override(text, "--arch-options"); });
  }
  options.hints.options = given.json(-1);
  return options;
}

Snapshot load_model(const NetworkFlags& flags, at::Device device,
                    const Precision& precision) {
  const std::filesystem::path network(flags.network);
  require_network(flags);
  refuse_training_state(network);
  Snapshot snapshot = load_snapshot(network, load_options(flags));
  for (const std::string& what : snapshot.assumed) log_line("assumed: " + what);
  if (!flags.adapter.empty()) {
    require_file(flags.adapter, "--adapter");
    under_flag("--adapter", [&] { merge_adapter(flags.adapter, snapshot, flags.force); });
  }
  snapshot.model->to(device, precision.weights());
  if (flags.channels_last) snapshot.model->use_channels_last();
  return snapshot;
}

void prepare_output(const std::filesystem::path& path, bool overwrite,
                    const std::string& flag) {
  const std::filesystem::path folder = path.parent_path();
  if (!folder.empty()) make_directories(folder);
  if (!overwrite && std::filesystem::is_regular_file(path))
    throw UsageError(flag + ": " + path.string() +
                     " is there already; pass --overwrite or choose another name");
}

void require_ending(const std::filesystem::path& path, const std::string& ending,
                    const std::string& flag) {
  FM_CHECK_USAGE(ends_with_ignoring_case(path.string(), ending), flag, ": '",
                 path.string(), "' does not end in ", ending);
}

}  // namespace flowmap::apps
