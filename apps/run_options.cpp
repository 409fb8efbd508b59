#include "apps/run_options.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"

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

Snapshot load_model(const std::filesystem::path& network, at::Device device,
                    at::ScalarType precision) {
  at::globalContext().setAllowTF32CuDNN(false);
  at::globalContext().setAllowTF32CuBLAS(false);
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

}  // namespace flowmap::apps
