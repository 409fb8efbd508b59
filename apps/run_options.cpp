#include "apps/run_options.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <system_error>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/safetensors.h"
#include "flowmap/base/text.h"

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

// Safetensors of other kinds, the weights of a training state among them.
void require_snapshot(const std::filesystem::path& network) {
  if (SafetensorsReader(network).metadata().contains("flowmap")) return;
  const bool in_state =
      std::filesystem::exists(network.parent_path() / "state.json") ||
      std::filesystem::absolute(network).parent_path().filename().string().starts_with(
          "training-state");
  throw DataError(network.string(), {}, "a flowmap snapshot (metadata 'flowmap')",
                  in_state ? "a part of a training state; take "
                             "network-snapshot-*.safetensors of the run"
                           : "a safetensors file without it; take "
                             "network-snapshot-*.safetensors of a run");
}

}  // namespace

Snapshot load_model(const std::filesystem::path& network, at::Device device,
                    at::ScalarType precision) {
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowTF32CuBLAS(false);
  require_file(network, "--network");
  require_snapshot(network);
  Snapshot snapshot = load_snapshot(network);
  snapshot.model->to(device, precision == at::kDouble ? at::kDouble : at::kFloat);
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
