#include "flowmap/train/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/run_folder.h"

namespace fs = std::filesystem;

namespace flowmap {

fs::path save_checkpoint(const fs::path& run, const Checkpoint& checkpoint) {
  const std::string name = "training-state-" + kimg_text(checkpoint.clock.images_seen);
  const fs::path target = run / name;
  const fs::path temporary = run / ("." + name + ".tmp");
  std::error_code ignored;
  fs::remove_all(temporary, ignored);
  make_directories(temporary);
  try {
    nlohmann::json state = {{"format", 1},
                            {"images_seen", checkpoint.clock.images_seen},
                            {"step", checkpoint.clock.step},
                            {"bad_steps", checkpoint.bad_steps},
                            {"training_seconds", checkpoint.training_seconds},
                            {"parts", nlohmann::json::array()}};
    for (const auto& [part, tensors] : checkpoint.parts) {
      save_tensors(temporary / (part + ".safetensors"), tensors);
      state["parts"].push_back(part);
    }
    write_file_atomic(temporary / "state.json", state.dump(1) + "\n");
  } catch (...) {
    fs::remove_all(temporary, ignored);
    throw;
  }
  // Exchanging the names keeps a complete state under the name at every moment.
  const bool exists = fs::exists(target);
  const int failed = renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, target.c_str(),
                               exists ? RENAME_EXCHANGE : RENAME_NOREPLACE);
  if (failed != 0) {
    // File systems without the call: a plain rename, or aside and rename.
    if (exists) fs::rename(target, run / ("." + name + ".old"));
    fs::rename(temporary, target);
    fs::remove_all(run / ("." + name + ".old"), ignored);
  } else if (exists) {
    fs::remove_all(temporary, ignored);
  }
  return target;
}

namespace {
nlohmann::json read_state_json(const fs::path& folder) {
  const fs::path path = folder / "state.json";
  const nlohmann::json state = nlohmann::json::parse(read_file(path), nullptr, false);
  const auto natural = [&](const char* key) {
    return state.contains(key) && state[key].is_number_integer() && state[key] >= 0;
  };
  bool good = state.is_object() && natural("images_seen") && natural("step") &&
              natural("bad_steps") && state.contains("training_seconds") &&
              state["training_seconds"].is_number() && state.contains("parts") &&
              state["parts"].is_array();
  // A part is a file beside state.json, never a path elsewhere.
  for (std::size_t i = 0; good && i < state["parts"].size(); ++i)
    good = state["parts"][i].is_string() &&
           state["parts"][i].get<std::string>().find('/') == std::string::npos;
  if (!good) throw DataError(path.string(), {}, "a training state", "something else");
  return state;
}
}  // namespace

std::optional<int64_t> checkpoint_images(const fs::path& folder) {
  if (!fs::exists(folder / "state.json")) return {};
  try {
    return read_state_json(folder)["images_seen"].get<int64_t>();
  } catch (const std::exception&) {
    return {};
  }
}

Checkpoint load_checkpoint(const fs::path& folder) {
  const nlohmann::json state = read_state_json(folder);
  Checkpoint checkpoint;
  checkpoint.clock.images_seen = state["images_seen"].get<int64_t>();
  checkpoint.clock.step = state["step"].get<int64_t>();
  checkpoint.bad_steps = state["bad_steps"].get<int64_t>();
  checkpoint.training_seconds = state["training_seconds"].get<double>();
  for (const auto& part : state["parts"]) {
    const std::string stem = part.get<std::string>();
    checkpoint.parts[stem] = load_tensors(folder / (stem + ".safetensors"));
  }
  return checkpoint;
}

void prune_checkpoints(const fs::path& run, int64_t keep) {
  if (keep <= 0) return;
  std::vector<std::pair<int64_t, fs::path>> states;
  for (const auto& entry : fs::directory_iterator(run)) {
    if (!entry.path().filename().string().starts_with("training-state-")) continue;
    if (const auto images = checkpoint_images(entry.path()))
      states.emplace_back(*images, entry.path());
  }
  std::sort(states.begin(), states.end());
  std::error_code ignored;
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < states.size(); ++i)
    fs::remove_all(states[i].second, ignored);
}

}  // namespace flowmap
