// Training states and run folders: complete or not there, whatever happens between.
#include "flowmap/train/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <ATen/ATen.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/train/run_folder.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
using testing::file_bytes;
using testing::put_file;
using testing::ScratchFolder;
using ::testing::HasSubstr;

Checkpoint example(int64_t images, float value) {
  Checkpoint checkpoint;
  checkpoint.clock = {images, images / 10};
  checkpoint.bad_steps = 3;
  checkpoint.training_seconds = 12.5;
  checkpoint.parts["weights-model"] = {{"a", at::full({2, 3}, value)},
                                       {"b.c", at::full({4}, value, at::kDouble)}};
  checkpoint.parts["optimizer-model"] = {{"step", at::full({1}, images, at::kLong)}};
  return checkpoint;
}

float stored_value(const fs::path& state) {
  return load_checkpoint(state).parts.at("weights-model").at("a")[0][0].item<float>();
}

std::string refusal(const fs::path& state) {
  try {
    load_checkpoint(state);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Checkpoint, ComesBackWhole) {
  const ScratchFolder run;
  const Checkpoint before = example(12'345, 0.25f);
  const fs::path state = save_checkpoint(run.path(), before);
  EXPECT_EQ(state, run / "training-state-000012");
  const Checkpoint after = load_checkpoint(state);
  EXPECT_EQ(after.clock.images_seen, 12'345);
  EXPECT_EQ(after.clock.step, 1234);
  EXPECT_EQ(after.bad_steps, 3);
  EXPECT_EQ(after.training_seconds, 12.5);
  ASSERT_EQ(after.parts.size(), 2u);
  for (const auto& [part, tensors] : before.parts) {
    ASSERT_EQ(after.parts.at(part).size(), tensors.size());
    for (const auto& [name, tensor] : tensors) {
      EXPECT_TRUE(at::equal(after.parts.at(part).at(name), tensor)) << name;
      EXPECT_EQ(after.parts.at(part).at(name).scalar_type(), tensor.scalar_type());
    }
  }
  EXPECT_EQ(checkpoint_images(state), 12'345);
}

TEST(Checkpoint, ReplacesOneOfTheSameName) {
  const ScratchFolder run;
  save_checkpoint(run.path(), example(5000, 1));
  const fs::path state = save_checkpoint(run.path(), example(5100, 2));
  EXPECT_EQ(stored_value(state), 2);
  EXPECT_EQ(checkpoint_images(state), 5100);
  // Nothing of the old one stays beside it.
  int entries = 0;
  for (const auto& entry : fs::directory_iterator(run.path())) {
    EXPECT_EQ(entry.path(), state);
    ++entries;
  }
  EXPECT_EQ(entries, 1);
}

TEST(Checkpoint, DamagedFilesAreNamed) {
  const ScratchFolder run;
  const fs::path state = save_checkpoint(run.path(), example(5000, 1));
  const fs::path weights = state / "weights-model.safetensors";
  for (const auto cut : {fs::file_size(weights) - 1, fs::file_size(weights) / 2,
                         std::uintmax_t{3}, std::uintmax_t{0}}) {
    fs::resize_file(weights, cut);
    EXPECT_THROW(load_checkpoint(state), DataError) << cut;
    EXPECT_THAT(refusal(state), HasSubstr("weights-model.safetensors")) << cut;
  }
  fs::remove(weights);
  EXPECT_THAT(refusal(state), HasSubstr("weights-model.safetensors"));
}

TEST(Checkpoint, StateJsonIsChecked) {
  const ScratchFolder run;
  const fs::path state = save_checkpoint(run.path(), example(5000, 1));
  const std::string good = testing::to_text(file_bytes(state / "state.json"));
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const auto at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    put_file(state / "state.json", text);
    EXPECT_THROW(load_checkpoint(state), DataError) << to;
    EXPECT_THAT(refusal(state), HasSubstr("state.json")) << to;
    EXPECT_FALSE(checkpoint_images(state)) << to;
  };
  with("5000", "-5");
  with("5000", "\"5000\"");
  with("\"step\": 500", "\"step\": null");
  with("12.5", "\"long\"");
  with("\"parts\"", "\"others\"");
  with("\"weights-model\"", "\"../weights-model\"");
  with("\"weights-model\"", "7");
  with(good, good.substr(0, good.size() / 2));
  with(good, "");
  with(good, "[]");
  put_file(state / "state.json", good);
  EXPECT_EQ(refusal(state), "accepted");
}

// What a process killed while writing leaves behind.
TEST(Checkpoint, UnfinishedOnesAreIgnored) {
  const ScratchFolder run;
  const fs::path good = save_checkpoint(run.path(), example(5000, 1));
  const fs::path hidden = run / ".training-state-000007.tmp";
  fs::create_directories(hidden);
  put_file(hidden / "weights-model.safetensors", "half a fi");
  EXPECT_EQ(latest_state(run.path()), good);
  // Also where the file system did not keep the order of writes: no state.json, or an
  // empty one.
  fs::create_directories(run / "training-state-000008");
  fs::create_directories(run / "training-state-000009");
  put_file(run / "training-state-000009" / "state.json", "");
  put_file(run / "training-state-000010", "a file");
  EXPECT_EQ(latest_state(run.path()), good);
  EXPECT_EQ(run_of(run.path()), run.path());
  prune_checkpoints(run.path(), 1);
  EXPECT_EQ(stored_value(good), 1);
  // The name is free for the next state nevertheless.
  const fs::path next = save_checkpoint(run.path(), example(7000, 2));
  EXPECT_EQ(stored_value(next), 2);
  EXPECT_FALSE(fs::exists(hidden));
  EXPECT_EQ(stored_value(save_checkpoint(run.path(), example(9000, 3))), 3);
}

// The disk is full in the middle: the error is told, and what was there stays.
TEST(Checkpoint, AFailedWriteKeepsTheOld) {
  const ScratchFolder run;
  const fs::path state = save_checkpoint(run.path(), example(5000, 1));
  Checkpoint large = example(5000, 2);
  large.parts["weights-model"]["large"] = at::zeros({100'000});
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit tight{10'000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &tight), 0);
  std::string message = "accepted";
  try {
    save_checkpoint(run.path(), large);
  } catch (const Error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_THAT(message, HasSubstr("weights-model.safetensors"));
  EXPECT_EQ(stored_value(state), 1);
  EXPECT_EQ(latest_state(run.path()), state);
  for (const auto& entry : fs::directory_iterator(run.path()))
    EXPECT_EQ(entry.path(), state);
  EXPECT_EQ(stored_value(save_checkpoint(run.path(), large)), 2);
}

TEST(Checkpoint, PruningKeepsTheNewest) {
  const ScratchFolder run;
  // By images, not by the order of names or of writing.
  for (const int64_t images : {3000, 1'000'000'000, 20'000, 5000})
    save_checkpoint(run.path(), example(images, 1));
  put_file(run / "training-state-notes", "mine");
  prune_checkpoints(run.path(), 0);
  EXPECT_TRUE(fs::exists(run / "training-state-000003"));
  prune_checkpoints(run.path(), 2);
  EXPECT_FALSE(fs::exists(run / "training-state-000003"));
  EXPECT_FALSE(fs::exists(run / "training-state-000005"));
  EXPECT_TRUE(fs::exists(run / "training-state-000020"));
  EXPECT_TRUE(fs::exists(run / "training-state-1000000"));
  EXPECT_TRUE(fs::exists(run / "training-state-notes"));
  EXPECT_EQ(latest_state(run.path()), run / "training-state-1000000");
}

TEST(RunFolder, NumbersGoUp) {
  const ScratchFolder outdir;
  const fs::path runs = outdir / "not" / "there";
  EXPECT_EQ(new_run_folder(runs, "toy"), runs / "00000-toy");
  EXPECT_EQ(new_run_folder(runs, "toy"), runs / "00001-toy");
  // Other names and files do not count; a hole is not filled.
  fs::create_directories(runs / "notes-77");
  put_file(runs / "00099-file", "");
  fs::create_directories(runs / "00041-by-hand");
  EXPECT_EQ(new_run_folder(runs, "x"), runs / "00042-x");
  // A file of the next name is in the way.
  put_file(runs / "00043-x", "");
  EXPECT_ANY_THROW(new_run_folder(runs, "x"));
  EXPECT_EQ(kimg_text(195'999), "000195");
}

TEST(RunFolder, OfAStateIsItsParent) {
  const ScratchFolder outdir;
  const fs::path run = outdir / "00000-toy";
  fs::create_directories(run);
  const fs::path state = save_checkpoint(run, example(5000, 1));
  EXPECT_EQ(run_of(run), run);
  EXPECT_EQ(run_of(state), run);
  EXPECT_EQ(run_of(state / ""), run);
  const auto refused = [](const fs::path& given) -> std::string {
    try {
      run_of(given);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refused(outdir.path()), HasSubstr("no complete training-state"));
  EXPECT_THAT(refused(outdir / "missing"), HasSubstr("missing is no folder"));
}

}  // namespace
}  // namespace flowmap
