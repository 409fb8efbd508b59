// Runs the binary (FLOWMAP_BINARY) on small snapshots with random weights.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ATen/ATen.h>

#include <cstdio>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "flowmap/draw.h"
#include "flowmap/model.h"
#include "flowmap/train/snapshot.h"

namespace flowmap::testing {

struct AppResult {
  int code = -1;
  std::string out, err;
};

class AppTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = std::filesystem::temp_directory_path() /
              ("flowmap_app_" + std::to_string(getpid()) + "_" + test->name());
    std::filesystem::create_directories(folder_);
    ASSERT_NE(std::getenv("FLOWMAP_BINARY"), nullptr) << "set FLOWMAP_BINARY";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  static std::string content(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  // Words are given as the shell sees them; the shell runs in the test's folder.
  AppResult run(const std::string& arguments) const {
    const std::string out = path("stdout.txt"), err = path("stderr.txt");
    const std::string command = "cd '" + folder_.string() + "' && '" +
                                std::getenv("FLOWMAP_BINARY") + "' " + arguments + " >'" +
                                out + "' 2>'" + err + "'";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), content(out),
            content(err)};
  }

  // A model of `spec` whose every weight is a small normal, so that no output is the zero
  // that training starts from.
  static std::shared_ptr<Model> random_model(const std::string& spec) {
    auto model = make_model(Config::from_text(spec, "test"), 1);
    const at::NoGradGuard no_grad;
    std::uint64_t k = 0;
    for (at::Tensor& p : model->parameters()) {
      const double scale = p.dim() > 1 ? 1.0 / std::sqrt(p.numel() / p.size(0)) : 0.1;
      p.add_(Draw(5, k++, 1).normal("weights", p.sizes())[0] * scale);
    }
    return model;
  }
  void save(const std::string& name, const std::string& spec,
            const std::map<std::string, std::string>& metadata = {}) const {
    save_snapshot(path(name), *random_model(spec), spec, metadata);
  }

  std::filesystem::path folder_;
};

// A flow map of 8x8 gray pictures, unconditional.
inline const char* const kTinyFlowMap = R"({"network": {"type": "ddpmpp",
  "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]},
  "preconditioning": {"type": "flow", "two_times": true},
  "sample_shape": [1, 8, 8], "label_dim": 0})";
// A velocity model of 4x4 colour pictures with three classes.
inline const char* const kTinyConditional = R"({"network": {"type": "mlp", "width": 16,
  "depth": 2}, "preconditioning": {"type": "flow"}, "sample_shape": [3, 4, 4],
  "label_dim": 3})";
inline const char* const kTinyDenoiser = R"({"network": {"type": "mlp", "width": 16,
  "depth": 2}, "preconditioning": {"type": "edm"}, "sample_shape": [1, 4, 4],
  "label_dim": 0})";
inline const char* const kTinyPoints = R"({"network": {"type": "mlp", "width": 16,
  "depth": 2}, "preconditioning": {"type": "flow", "two_times": true},
  "sample_shape": [2], "label_dim": 0})";

}  // namespace flowmap::testing
