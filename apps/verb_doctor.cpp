#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <opencv2/core/version.hpp>
#include <string>
#include <thread>
#include <vector>

#include "apps/build_facts.h"
#include "apps/cli.h"
#include "apps/run_options.h"
#include "flowmap/base/program_folder.h"
#include "flowmap/base/text.h"
#include "metrics/metric.h"

namespace flowmap::apps {
namespace {

namespace fs = std::filesystem;

void doctor_line(const char* what, const std::string& found) {
  std::printf("%-11s %s\n", what, found.c_str());
}

bool is_on_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  for (const std::string& folder : split(path ? path : "", ':')) {
    std::error_code ignored;
    if (!folder.empty() && fs::is_regular_file(fs::path(folder) / program, ignored))
      return true;
  }
  return false;
}

std::string cuda_report() {
  if (!kCudaVersion[0])
    return "kernels built without it: everything runs on the CPU; install the CUDA "
           "Toolkit (nvcc) and configure again to use a GPU's own kernels";
  std::string text = std::string("kernels built with ") + kCudaVersion;
  if (!cuda_available())
    return text + "; no device found: everything runs on the CPU";
  return text + format("; %d device(s)", at::detail::getCUDAHooks().deviceCount());
}

std::string nccl_report() {
  const fs::path wheel = fs::path(kLibTorchPath).parent_path() / "nvidia/nccl/lib";
  std::error_code ignored;
  return fs::exists(wheel / "libnccl.so.2", ignored)
             ? "found beside LibTorch (" + wheel.string() +
                   "); this version trains on one machine and one device"
             : "not found; needed only for many GPUs, which this version does not use";
}

std::string data_folder_report() {
  const fs::path fashion = "/usr/share/datasets/fashion-mnist";
  std::error_code ignored;
  if (fs::exists(fashion / "train-images-idx3-ubyte.gz", ignored) ||
      fs::exists(fashion / "train-images-idx3-ubyte", ignored))
    return "Fashion-MNIST at " + fashion.string();
  return "Fashion-MNIST not found: the demo and its configs cannot train; apt-get install "
         "dataset-fashion-mnist";
}

// Snapshots in models/ of the working folder, or of the folders above the program.
std::string models_report() {
  std::error_code ignored;
  std::vector<fs::path> places = folders_of_program("models");
  places.insert(places.begin(), "models");
  for (const fs::path& place : places) {
    std::vector<std::string> names;
    for (const fs::directory_entry& entry : fs::directory_iterator(place, ignored))
      if (entry.path().extension() == ".safetensors")
        names.push_back(entry.path().filename().string());
    if (names.empty()) continue;
    std::sort(names.begin(), names.end());
    return place.string() + ": " + join(names, ", ");
  }
  return "no models/*.safetensors here or above the program: 'flowmap generate' needs a "
         "--network";
}

std::string detectors_report() {
  std::vector<std::string> found;
  for (const metrics::DetectorEntry& entry : metrics::detector_registry()) {
    try {
      const auto detector = metrics::make_detector(entry.name, Config());
      const std::string sum = detector->checksum();
      found.push_back(entry.name + (sum.empty() ? "" : " (sha256 " + sum.substr(0, 12) + ")"));
    } catch (const std::exception& error) {
      found.push_back(std::string(entry.name) + " missing (" + error.what() + ")");
    }
  }
  return join(found, ", ");
}

}  // namespace

int run_doctor(std::span<const std::string> arguments) {
  CLI::App app("What this build and this machine have, and what each missing thing costs.",
               "flowmap doctor");
  app.footer("\nExample: flowmap doctor");
  if (!parse_arguments(app, arguments)) return 0;
  doctor_line("flowmap", format("%s (commit %s)", kVersion, kCommit));
  doctor_line("compiler", format("%s, %s build, C++20", kCompiler, kBuildType));
  doctor_line("LibTorch", format("%s at %s", kLibTorchVersion, kLibTorchPath));
  doctor_line("CUDA", cuda_report());
  doctor_line("CPU", at::get_cpu_capability() + " kernels");
  doctor_line("threads",
              format("%d used of %u; OMP_NUM_THREADS sets them (one is fastest where "
                     "other programs keep the cores busy)",
                     at::get_num_threads(), std::thread::hardware_concurrency()));
  doctor_line("OpenCV", CV_VERSION);
  doctor_line("MPI", is_on_path("mpirun")
                         ? "mpirun found; this version trains on one machine"
                         : "not found; needed only for many machines, which this version "
                           "does not use");
  doctor_line("NCCL", nccl_report());
  doctor_line("data sets", data_folder_report());
  doctor_line("models", models_report());
  doctor_line("detectors", detectors_report());
  return 0;
}

}  // namespace flowmap::apps
