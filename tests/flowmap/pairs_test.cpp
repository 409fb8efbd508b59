// Folders of pairs: what is written comes back, whoever stopped, cut or joined them; and the
// data set "pairs" gives noise, sample and label of one pair.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "flowmap/base/error.h"
#include "flowmap/data/dataset.h"
#include "flowmap/draw.h"
#include "flowmap/pairs/flip.h"
#include "flowmap/pairs/pair_store.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/trainer.h"
#include "tests/support/scratch.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::ThrowsMessage;

const std::vector<int64_t> kShape{1, 4, 6};

PairManifest recipe(DType images = DType::F32, int64_t classes = 3) {
  PairManifest manifest;
  manifest.recipe.teacher = "teacher.safetensors";
  manifest.recipe.teacher_sha256 = std::string(64, 'a');
  manifest.recipe.solver = "heun";
  manifest.recipe.solver_options = "{}";
  manifest.recipe.times = {0, 0.1, 1};
  manifest.recipe.source = "seeds";
  manifest.recipe.classes = classes > 0 ? "seed" : "none";
  manifest.recipe.sample_shape = kShape;
  manifest.recipe.class_count = classes;
  manifest.recipe.images = images;
  manifest.command = "--network t.st --steps 2";
  manifest.tool = "flowmap test";
  manifest.shard_size = 4;
  return manifest;
}

std::vector<std::uint64_t> seeds_of(const PairShard& shard) {
  std::vector<std::uint64_t> seeds;
  for (int64_t i = 0; i < shard.count; ++i)
    seeds.push_back(shard.first_seed + static_cast<std::uint64_t>(i));
  return seeds;
}

// A teacher without a network: 1.7 tanh(n) + n/10, beyond [-1, 1].
at::Tensor teacher(const at::Tensor& noise) { return noise.tanh() * 1.7 + noise / 10; }

void write_shard(PairWriter& writer, std::size_t position) {
  const PairShard& shard = writer.manifest().shards[position];
  const Draw draw = Draw::per_seed(seeds_of(shard));
  const at::Tensor noise = draw.normal("latents", kShape);
  const PairRecipe& r = writer.manifest().recipe;
  writer.write(position, teacher(noise),
               r.class_count > 0 ? draw.integer("class", {}, r.class_count) : at::Tensor(),
               r.stored_noise ? noise : at::Tensor());
}

void make(const fs::path& folder, const std::vector<SeedRange>& ranges,
          const PairManifest& manifest = recipe()) {
  PairWriter writer(folder, manifest, ranges);
  for (const std::size_t i : writer.missing()) write_shard(writer, i);
}

// Names and bytes of all but the note of sums.
std::map<std::string, Bytes> bytes_in(const fs::path& folder) {
  std::map<std::string, Bytes> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.path().filename() != "checked.json")
      files[entry.path().filename().string()] = file_bytes(entry.path());
  return files;
}

auto says(const std::string& text) { return ::testing::HasSubstr(text); }

TEST(PairStore, GivesNoiseSamplesAndClassesOfTheSeeds) {
  const ScratchFolder scratch;
  make(scratch / "p", {{5, 6}, {100, 3}});
  const PairStore store(scratch / "p");
  ASSERT_EQ(store.count(), 9);
  EXPECT_EQ(store.manifest().seeds(), "5-10,100-102");
  ASSERT_EQ(store.manifest().shards.size(), 3u);  // 5-8, 9-10, 100-102
  const at::Tensor rows = at::tensor({8, 0, 5, 3, 0}, at::kLong);
  const std::vector<std::uint64_t> seeds{102, 5, 10, 8, 5};
  EXPECT_EQ(store.seeds(rows), seeds);
  const at::Tensor noise = Draw::per_seed(seeds).normal("latents", kShape);
  EXPECT_TRUE(store.noise(rows).equal(noise));
  EXPECT_TRUE(store.images(rows).equal(teacher(noise)));
  EXPECT_GT(store.images(at::arange(9)).abs().max().item<float>(), 1.2);  // not clipped
  EXPECT_TRUE(
      store.classes(rows).equal(Draw::per_seed(seeds).integer("class", {}, 3)));
  EXPECT_THROW(store.images(at::tensor({9}, at::kLong)), Error);
}

TEST(PairStore, StoresBytesHalvesAndFloats) {
  const ScratchFolder scratch;
  const at::Tensor rows = at::arange(7);
  std::map<DType, uintmax_t> sizes;
  for (const DType dtype : {DType::U8, DType::F16, DType::F32}) {
    const fs::path folder = scratch / std::string(dtype_name(dtype));
    make(folder, {{0, 7}}, recipe(dtype));
    const PairStore store(folder);
    const at::Tensor exact = teacher(store.noise(rows));
    const at::Tensor got = store.images(rows);
    sizes[dtype] = fs::file_size(folder / "pairs-000000.safetensors");
    if (dtype == DType::U8) {
      EXPECT_TRUE(got.equal(images_to_bytes(exact)));
    } else {
      EXPECT_EQ(got.scalar_type(), at::kFloat);
      EXPECT_TRUE(got.equal(dtype == DType::F16 ? exact.to(at::kHalf).to(at::kFloat) : exact));
    }
  }
  EXPECT_EQ(sizes[DType::F32] - sizes[DType::F16], 4u * 24 * 2);
  EXPECT_LT(sizes[DType::U8], sizes[DType::F16]);
}

TEST(PairStore, StoredNoiseIsKeptAsItIs) {
  const ScratchFolder scratch;
  PairManifest manifest = recipe(DType::F32, 0);
  manifest.recipe.stored_noise = true;
  PairWriter writer(scratch / "p", manifest, {{0, 4}});
  const at::Tensor noise = Draw(3, 0, 4).normal("other", kShape);
  EXPECT_THROW(writer.write(0, teacher(noise), {}, {}), Error);  // noise is missing
  writer.write(0, teacher(noise), {}, noise);
  const PairStore store(scratch / "p");
  EXPECT_TRUE(store.noise(at::arange(4)).equal(noise));
  EXPECT_FALSE(store.classes(at::arange(4)).defined());
}

TEST(PairWriter, RefusesSamplesThatAreNotFiniteByTheirSeed) {
  const ScratchFolder scratch;
  PairWriter writer(scratch / "p", recipe(DType::U8, 0), {{40, 4}});
  at::Tensor images = at::zeros({4, 1, 4, 6});
  images[2][0][1][1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT([&] { writer.write(0, images, {}, {}); },
              ThrowsMessage<Error>(says("the sample of seed 42 is not finite")));
  EXPECT_FALSE(fs::exists(scratch / "p/pairs-000000.safetensors"));
}

TEST(PairWriter, ContinuesWithWhatIsMissingToTheByte) {
  const ScratchFolder scratch;
  make(scratch / "whole", {{0, 14}});
  {
    PairWriter writer(scratch / "parts", recipe(), {{0, 14}});
    EXPECT_EQ(writer.missing().size(), 4u);
    write_shard(writer, 0);
    write_shard(writer, 2);
  }
  // A kill between the shard and the manifest: a file that nobody vouches for.
  fs::copy_file(scratch / "whole/pairs-000003.safetensors",
                scratch / "parts/pairs-000003.safetensors");
  PairWriter writer(scratch / "parts", recipe(), {{0, 14}});
  EXPECT_EQ(writer.missing(), (std::vector<std::size_t>{1, 3}));
  EXPECT_EQ(writer.missing_pairs(), 6);
  for (const std::size_t i : writer.missing()) write_shard(writer, i);
  EXPECT_EQ(bytes_in(scratch / "parts"), bytes_in(scratch / "whole"));
  EXPECT_TRUE(PairWriter(scratch / "parts", recipe(), {{0, 14}}).missing().empty());
}

TEST(PairWriter, KeepsThePartOfAShardAndForgetsItAfterwards) {
  const ScratchFolder scratch;
  PairWriter writer(scratch / "p", recipe(), {{0, 4}});
  const Draw draw = Draw::per_seed({0, 1, 2});
  const at::Tensor images = teacher(draw.normal("latents", kShape));
  const at::Tensor classes = draw.integer("class", {}, 3);
  EXPECT_FALSE(writer.part(0).images.defined());
  writer.keep_part(0, images, classes, {});
  EXPECT_TRUE(writer.part(0).images.equal(images));
  EXPECT_TRUE(writer.part(0).classes.equal(classes));
  EXPECT_THROW(PairStore(scratch / "p"), DataError);  // no shard yet
  // Of another teacher: of no use.
  PairManifest other = recipe();
  other.recipe.teacher_sha256 = std::string(64, 'b');
  fs::create_directories(scratch / "q");
  PairWriter second(scratch / "q", other, {{0, 4}});
  for (const auto& entry : fs::directory_iterator(scratch / "p"))
    if (entry.path().filename() != "pairs.json")
      fs::copy(entry.path(), scratch / "q" / entry.path().filename());
  EXPECT_FALSE(second.part(0).images.defined());
  write_shard(writer, 0);
  EXPECT_FALSE(writer.part(0).images.defined());
  EXPECT_EQ(bytes_in(scratch / "p").size(), 2u);
}

TEST(PairWriter, RefusesAFolderOfOtherPairs) {
  const ScratchFolder scratch;
  make(scratch / "p", {{0, 8}});
  const auto refused = [&](const PairManifest& wanted, int64_t count,
                           const std::string& what) {
    EXPECT_THAT([&] { PairWriter(scratch / "p", wanted, {{0, count}}); },
                ThrowsMessage<UsageError>(says(what)));
  };
  PairManifest other = recipe();
  other.recipe.teacher_sha256 = std::string(64, 'b');
  refused(other, 8, "teacher_sha256");
  other = recipe();
  other.recipe.solver = "euler";
  refused(other, 8, "solver: \"heun\", not \"euler\"");
  other = recipe();
  other.recipe.times[1] = 0.2;
  refused(other, 8, "times");
  other = recipe();
  other.shard_size = 5;
  refused(other, 8, "shards of 4, not 5");
  refused(recipe(), 9, "is for seeds 0-7, not 0-8");
  // The file's name is free.
  other = recipe();
  other.recipe.teacher = "renamed.safetensors";
  EXPECT_TRUE(PairWriter(scratch / "p", other, {{0, 8}}).missing().empty());
}

TEST(PairStore, MissingCutAndAlteredShardsAreNamedWithTheRemedy) {
  const ScratchFolder scratch;
  const fs::path folder = scratch / "p", shard = folder / "pairs-000001.safetensors";
  make(folder, {{0, 10}});
  const Bytes good = file_bytes(shard);
  const auto faulty = [&](const std::string& what) {
    EXPECT_THAT([&] { PairStore store(folder); },
                ThrowsMessage<DataError>(::testing::AllOf(
                    says("pairs-000001.safetensors"), says(what),
                    says("flowmap pairs --network t.st --steps 2 --seeds 0-9 "
                         "--shard-size 4 --dest '" + folder.string() + "'"))));
    EXPECT_EQ(PairWriter(folder, recipe(), {{0, 10}}).missing(),
              (std::vector<std::size_t>{1}));
  };
  EXPECT_EQ(PairStore(folder).count(), 10);
  fs::remove(shard);
  faulty("is missing");
  put_file(shard, to_text(good).substr(0, good.size() - 5));
  faulty("is cut");
  Bytes altered = good;
  altered[altered.size() - 3] ^= std::byte{1};
  put_file(shard, to_text(altered));
  faulty("was altered: sha256");
  EXPECT_EQ(PairStore(folder, false).count(), 10);  // sums are not looked at
  put_file(shard, to_text(good));
  EXPECT_EQ(PairStore(folder).count(), 10);
}

TEST(PairStore, ManifestsOfAnotherKindAreRefused) {
  const ScratchFolder scratch;
  EXPECT_THAT([&] { PairStore store(scratch / "none"); },
              ThrowsMessage<UsageError>(says("flowmap pairs --dest")));
  make(scratch / "p", {{0, 10}});
  const std::string text = to_text(file_bytes(scratch / "p/pairs.json"));
  const auto broken = [&](const std::string& from, const std::string& to) {
    std::string other = text;
    const auto at = other.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    put_file(scratch / "p/pairs.json", other.replace(at, from.size(), to));
    EXPECT_THROW(PairStore store(scratch / "p"), DataError) << from << " -> " << to;
  };
  broken("{", "");
  broken("flowmap pairs 1", "flowmap pairs 9");
  broken("\"first_seed\": 4", "\"first_seed\": 3");
  broken("\"first_seed\": 4", "\"first_seed\": 5");
  broken("pairs-000001", "../pairs-000001");
  broken("\"count\": 4", "\"count\": -4");
  broken("\"images\": \"F32\"", "\"images\": \"I64\"");
  broken("\"images\": \"F32\"", "\"images\": \"F16\"");  // not what the shards hold
}

TEST(MergePairs, EqualsOneRunToTheByte) {
  const ScratchFolder scratch;
  make(scratch / "whole", {{0, 23}});
  make(scratch / "a", {{13, 10}});  // cut elsewhere than the whole
  make(scratch / "b", {{0, 6}});
  make(scratch / "c", {{6, 7}});
  const PairManifest merged =
      merge_pairs(scratch / "m", {scratch / "a", scratch / "b", scratch / "c"});
  EXPECT_EQ(merged.seeds(), "0-22");
  EXPECT_EQ(bytes_in(scratch / "m"), bytes_in(scratch / "whole"));
  // A gap stays one.
  merge_pairs(scratch / "gap", {scratch / "b", scratch / "a"});
  make(scratch / "gap2", {{0, 6}, {13, 10}});
  EXPECT_EQ(bytes_in(scratch / "gap"), bytes_in(scratch / "gap2"));
}

TEST(MergePairs, RefusesOverlapsAndOtherRecipes) {
  const ScratchFolder scratch;
  make(scratch / "a", {{0, 6}});
  make(scratch / "b", {{5, 4}});
  PairManifest other = recipe();
  other.recipe.teacher_sha256 = std::string(64, 'b');
  make(scratch / "teacher", {{10, 4}}, other);
  other = recipe();
  other.recipe.solver = "euler";
  make(scratch / "solver", {{10, 4}}, other);
  const auto refused = [&](const std::string& second, const std::string& what) {
    EXPECT_THAT([&] { merge_pairs(scratch / "m", {scratch / "a", scratch / second}); },
                ThrowsMessage<UsageError>(
                    ::testing::AllOf(says(what), says((scratch / second).string()))));
    EXPECT_FALSE(fs::exists(scratch / "m"));
  };
  refused("b", "seed 5 is in");
  refused("teacher", "teacher_sha256");
  refused("solver", "solver");
  EXPECT_THROW(merge_pairs(scratch / "a", {scratch / "a"}), UsageError);
}

std::shared_ptr<Dataset> pairs_data(const fs::path& folder, const std::string& more = "") {
  return make_dataset(Config::from_text(
      R"({"path": ")" + folder.string() + R"(")" + more + "}", "test"));
}

TEST(PairDataset, RowsBelongTogether) {
  const ScratchFolder scratch;
  make(scratch / "p", {{7, 10}});
  const auto data = pairs_data(scratch / "p", R"(, "labels": true)");
  const DatasetInfo info = data->info();
  EXPECT_TRUE(info.pairs && info.images && !info.flip);
  EXPECT_EQ(info.name, "pairs-teacher-4x6");
  EXPECT_EQ(info.count, 10);
  EXPECT_EQ(info.label_dim, 3);
  const at::Tensor index = at::tensor({9, 2, 2, 0}, at::kLong);
  const Draw draw = Draw::per_seed({16, 9, 9, 7});
  const at::Tensor noise = data->noise(index);
  EXPECT_TRUE(noise.equal(draw.normal("latents", kShape)));  // what generate starts from
  EXPECT_TRUE(samples_to_float(data->samples(index)).equal(teacher(noise)));
  EXPECT_TRUE(data->labels(index).argmax(1).equal(draw.integer("class", {}, 3)));
  EXPECT_TRUE(pairs_data(scratch / "p", R"(, "noise": "memory")")->noise(index).equal(noise));
  EXPECT_FALSE(pairs_data(scratch / "p")->labels(index).defined());
  EXPECT_EQ(pairs_data(scratch / "p", R"(, "max_images": 6)")->info().count, 6);
}

TEST(PairDataset, MixesASecondFolderInItsShare) {
  const ScratchFolder scratch;
  make(scratch / "p", {{0, 10}});
  make(scratch / "real", {{50, 7}}, recipe(DType::U8));
  const auto data = pairs_data(scratch / "p", R"(, "labels": true, "real_fraction": 0.25,
    "real": ")" + (scratch / "real").string() + R"(")");
  // Three passes over the ten, so that the seven come up: 30 and 10 of 40.
  ASSERT_EQ(data->info().count, 40);
  const at::Tensor index = at::tensor({39, 4, 30, 24, 36}, at::kLong);
  const Draw draw = Draw::per_seed({52, 4, 50, 4, 56});
  const at::Tensor noise = draw.normal("latents", kShape);
  EXPECT_TRUE(data->noise(index).equal(noise));
  EXPECT_TRUE(data->labels(index).argmax(1).equal(draw.integer("class", {}, 3)));
  const at::Tensor samples = data->samples(index);
  EXPECT_TRUE(samples[1].equal(teacher(noise[1])));
  EXPECT_TRUE(samples[0].equal(samples_to_float(images_to_bytes(teacher(noise[0])))));
  EXPECT_TRUE(data->noise(at::tensor({3}, at::kLong)).equal(
      Draw::per_seed({3}).normal("latents", kShape)));  // none of the second
}

// Remembers the batches that the loop gives.
class PairTask : public Task {
 public:
  explicit PairTask(Stream stream) : stream_(stream) {
    players_.push_back({"model", make_model(Config::from_text(kSpec, "spec"), 1), kSpec, true});
  }
  std::vector<Player>& players() override { return players_; }
  Stream stream() const override { return stream_; }
  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    noise.push_back(batch.noise);
    x.push_back(batch.x);
    index.push_back(batch.index);
    Context context;
    const at::Tensor zero = at::zeros({batch.x.size(0)});
    const at::Tensor out =
        players_[0].model->velocity(Dual(batch.x), Dual(zero), {}, context).value;
    const at::Tensor loss = (out - batch.x).square().mean({1, 2, 3});
    return {loss.sum() / static_cast<double>(step.global_batch),
            {{"Loss/loss", loss.detach()}}};
  }
  std::string snapshot_info() const override { return "{}"; }

  std::vector<at::Tensor> noise, x, index;
  static constexpr const char* kSpec = R"({"network": {"type": "mlp", "width": 4,
    "depth": 1}, "preconditioning": {"type": "flow"}, "sample_shape": [1, 4, 6],
    "label_dim": 0})";

 private:
  Stream stream_;
  std::vector<Player> players_;
};

std::shared_ptr<PairTask> trained_on(const std::shared_ptr<Dataset>& data,
                                     const fs::path& run, int64_t batch_gpu,
                                     Stream stream = Stream::pairs) {
  const Config config = Config::from_text(
      R"({"trainer": {"duration": 24e-6, "batch": 8, "batch_gpu": )" +
          std::to_string(batch_gpu) + R"(, "tick": 1, "snap": 0, "dump": 0, "lr": 1e-3,
          "seed": 4}})",
      "test");
  fs::create_directories(run);
  const auto task = std::make_shared<PairTask>(stream);
  TrainOptions options = read_train_options(config);
  options.device = "cpu";
  Trainer trainer(options, task, data, run, {});
  trainer.run();
  return task;
}

TEST(PairDataset, TheLoopGivesPairsToMethodsThatAskForThem) {
  const ScratchFolder scratch;
  make(scratch / "p", {{0, 10}});
  const auto plain = trained_on(pairs_data(scratch / "p"), scratch / "r1", 8);
  ASSERT_EQ(plain->x.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(plain->x[i].equal(teacher(plain->noise[i])));
  // Micro-batches are slices of the batch.
  const auto small = trained_on(pairs_data(scratch / "p"), scratch / "r2", 2);
  EXPECT_TRUE(at::cat(small->noise).equal(at::cat(plain->noise)));
  EXPECT_TRUE(at::cat(small->x).equal(at::cat(plain->x)));
  // Others get none.
  const auto samples =
      trained_on(pairs_data(scratch / "p"), scratch / "r3", 8, Stream::samples);
  EXPECT_FALSE(samples->noise[0].defined());
  EXPECT_TRUE(at::cat(samples->x).equal(at::cat(plain->x)));
  // A set without noise is refused by name.
  const auto points = make_dataset(Config::from_text(R"({"type": "moons"})", "test"));
  EXPECT_THAT([&] { trained_on(points, scratch / "r4", 8); },
              ThrowsMessage<Error>(says("moons: the method needs pairs")));
}

TEST(PairDataset, FlipsNoiseAndSampleTogether) {
  const ScratchFolder scratch;
  make(scratch / "p", {{0, 10}});
  const auto plain = trained_on(pairs_data(scratch / "p"), scratch / "r1", 4);
  const auto flipped =
      trained_on(pairs_data(scratch / "p", R"(, "flip": true)"), scratch / "r2", 4);
  const at::Tensor before = at::cat(plain->noise), after = at::cat(flipped->noise);
  const at::Tensor index = at::cat(flipped->index);
  EXPECT_TRUE(at::cat(plain->index).equal(index));
  // The teacher acts on each pixel alone, so that the flip of a pair is one.
  EXPECT_TRUE(at::cat(flipped->x).equal(teacher(after)));
  int64_t flips = 0;
  for (int64_t i = 0; i < 24; ++i) {
    const bool flip = after[i].equal(before[i].flip({2}));
    EXPECT_TRUE(flip || after[i].equal(before[i])) << i;
    flips += flip;
  }
  EXPECT_GT(flips, 4);
  EXPECT_LT(flips, 20);
}

TEST(FlipEquivariance, ZeroOfPointwiseMapsAndNotOfOthers) {
  const at::Tensor noise = Draw(1, 0, 5).normal("n", {1, 4, 6});
  EXPECT_EQ(flip_equivariance(teacher, noise).max().item<double>(), 0);
  // Moves by a column: horizontal flips notice, vertical ones do not.
  const NoiseMap shift = [](const at::Tensor& n) { return n.roll({1}, {3}); };
  EXPECT_GT(flip_equivariance(shift, noise).min().item<double>(), 0.3);
  EXPECT_EQ(flip_equivariance(shift, noise, 2).max().item<double>(), 0);
  // Constant c in one corner: the difference is known, c sqrt(2) over c.
  const NoiseMap corner = [](const at::Tensor& n) {
    at::Tensor y = at::zeros_like(n);
    y.slice(3, 0, 1).slice(2, 0, 1).fill_(3);
    return y;
  };
  EXPECT_NEAR(flip_equivariance(corner, noise)[0].item<double>(), std::sqrt(2.0), 1e-12);
  EXPECT_THROW(flip_equivariance(teacher, at::zeros({4, 2})), UsageError);
}

TEST(SeedRanges, JoinsNeighboursAndRefusesDisorder) {
  const std::vector<SeedRange> ranges = seed_ranges({3, 4, 5, 9}, "--seeds");
  ASSERT_EQ(ranges.size(), 2u);
  EXPECT_EQ(ranges[0].first, 3u);
  EXPECT_EQ(ranges[0].count, 3);
  EXPECT_THAT([] { seed_ranges({3, 3}, "--seeds"); },
              ThrowsMessage<UsageError>(says("--seeds: 3 after 3")));
  EXPECT_THROW(seed_ranges({4, 3}, "--seeds"), UsageError);
}

}  // namespace
}  // namespace flowmap::testing
