#include "flowmap/pairs/pair_manifest.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <span>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/sha256.h"
#include "flowmap/base/text.h"

namespace fs = std::filesystem;

namespace flowmap {
namespace {

using PairJson = nlohmann::json;

constexpr const char* kPairFormat = "flowmap pairs 1";
constexpr const char* kNoiseOfSeeds = "normal(seed, \"latents\")";

PairJson recipe_json(const PairRecipe& r) {
  return {{"teacher", r.teacher},
          {"teacher_sha256", r.teacher_sha256},
          {"teacher_options", r.teacher_options},
          {"guide", r.guide},
          {"guide_sha256", r.guide_sha256},
          {"solver", r.solver},
          {"solver_options", r.solver_options},
          {"schedule", r.schedule},
          {"times", r.times},
          {"times_are_sigmas", r.sigma},
          {"sigma_min", r.sigma_min},
          {"sigma_max", r.sigma_max},
          {"epsilon_s", r.epsilon_s},
          {"guidance", r.guidance},
          {"dtype", r.dtype},
          {"classes", r.classes},
          {"source", r.source},
          {"sample_shape", r.sample_shape},
          {"class_count", r.class_count},
          {"images", dtype_name(r.images)},
          {"noise", r.stored_noise ? "stored" : kNoiseOfSeeds}};
}

DType image_dtype(const PairJson& name) {
  for (const DType dtype : {DType::U8, DType::F16, DType::F32})
    if (name.get<std::string>() == dtype_name(dtype)) return dtype;
  throw std::invalid_argument("images: U8, F16 or F32 is expected");
}

PairRecipe recipe_of(const PairJson& j) {
  PairRecipe r;
  j.at("teacher").get_to(r.teacher);
  j.at("teacher_sha256").get_to(r.teacher_sha256);
  j.at("teacher_options").get_to(r.teacher_options);
  j.at("guide").get_to(r.guide);
  j.at("guide_sha256").get_to(r.guide_sha256);
  j.at("solver").get_to(r.solver);
  j.at("solver_options").get_to(r.solver_options);
  j.at("schedule").get_to(r.schedule);
  j.at("times").get_to(r.times);
  j.at("times_are_sigmas").get_to(r.sigma);
  j.at("sigma_min").get_to(r.sigma_min);
  j.at("sigma_max").get_to(r.sigma_max);
  j.at("epsilon_s").get_to(r.epsilon_s);
  j.at("guidance").get_to(r.guidance);
  j.at("dtype").get_to(r.dtype);
  j.at("classes").get_to(r.classes);
  j.at("source").get_to(r.source);
  j.at("sample_shape").get_to(r.sample_shape);
  j.at("class_count").get_to(r.class_count);
  r.images = image_dtype(j.at("images"));
  const auto noise = j.at("noise").get<std::string>();
  r.stored_noise = noise == "stored";
  if (!r.stored_noise && noise != kNoiseOfSeeds)
    throw std::invalid_argument("noise: neither stored nor of the seeds");
  if (r.sample_shape.empty() ||
      std::any_of(r.sample_shape.begin(), r.sample_shape.end(),
                  [](int64_t size) { return size < 1 || size > (int64_t{1} << 20); }))
    throw std::invalid_argument("sample_shape: sizes of at least 1 are expected");
  return r;
}

std::string range_text(std::uint64_t first, int64_t count) {
  const std::string text = std::to_string(first);
  return count == 1 ? text
                    : text + "-" + std::to_string(first + static_cast<uint64_t>(count) - 1);
}

void check_plan(const PairManifest& manifest) {
  std::vector<SeedRange> ranges;
  for (const PairShard& shard : manifest.shards) {
    if (shard.count < 1 || shard.bytes < 0)
      throw std::invalid_argument(shard.file + ": count or size out of range");
    if (!ranges.empty() && shard.first_seed < ranges.back().first +
                                                  static_cast<uint64_t>(ranges.back().count))
      throw std::invalid_argument(shard.file + ": seeds are not in order");
    ranges.push_back({shard.first_seed, shard.count});
  }
  const std::vector<PairShard> plan = plan_shards(ranges, manifest.shard_size);
  bool same = plan.size() == manifest.shards.size() && !plan.empty();
  for (std::size_t i = 0; same && i < plan.size(); ++i)
    same = plan[i].file == manifest.shards[i].file &&
           plan[i].first_seed == manifest.shards[i].first_seed;
  if (!same) throw std::invalid_argument("the shards are not cut every shard_size seeds");
}

// Size and time of change of a file, and the sum that it then had.
using CheckedFiles = std::map<std::string, std::string>;

fs::path checked_path(const fs::path& folder) { return folder / "checked.json"; }

CheckedFiles read_checked(const fs::path& folder) {
  CheckedFiles checked;
  std::error_code error;
  if (!fs::exists(checked_path(folder), error)) return checked;
  const PairJson j = PairJson::parse(read_file(checked_path(folder)), nullptr, false);
  if (!j.is_object()) return checked;  // no worse than having none
  for (const auto& [file, state] : j.items())
    if (state.is_string()) checked[file] = state.get<std::string>();
  return checked;
}

std::string file_state(const fs::path& path, const std::string& sha256) {
  const auto time = fs::last_write_time(path).time_since_epoch().count();
  return std::to_string(fs::file_size(path)) + " " + std::to_string(time) + " " + sha256;
}

}  // namespace

int64_t PairManifest::count() const {
  int64_t count = 0;
  for (const PairShard& shard : shards) count += shard.count;
  return count;
}

std::string PairManifest::seeds() const {
  std::vector<std::string> parts;
  std::uint64_t first = 0;
  int64_t count = 0;
  for (const PairShard& shard : shards) {
    if (count > 0 && shard.first_seed == first + static_cast<std::uint64_t>(count)) {
      count += shard.count;
      continue;
    }
    if (count > 0) parts.push_back(range_text(first, count));
    first = shard.first_seed;
    count = shard.count;
  }
  if (count > 0) parts.push_back(range_text(first, count));
  return join(parts, ",");
}

std::string PairManifest::remedy(const fs::path& folder) const {
  std::string text = "flowmap pairs " + command;
  if (recipe.source == "seeds") text += " --seeds " + seeds();
  return text + " --shard-size " + std::to_string(shard_size) + " --dest '" +
         folder.string() + "'";
}

std::vector<SeedRange> seed_ranges(const std::vector<int64_t>& seeds,
                                   const std::string& flag) {
  std::vector<SeedRange> ranges;
  for (std::size_t i = 0; i < seeds.size(); ++i) {
    FM_CHECK_USAGE(i == 0 || seeds[i] > seeds[i - 1], flag, ": ", seeds[i], " after ",
                   seeds[i - 1], "; seeds of pairs rise, each once");
    const auto seed = static_cast<std::uint64_t>(seeds[i]);
    if (i > 0 && seeds[i] == seeds[i - 1] + 1)
      ++ranges.back().count;
    else
      ranges.push_back({seed, 1});
  }
  return ranges;
}

std::vector<PairShard> plan_shards(const std::vector<SeedRange>& ranges,
                                   int64_t shard_size) {
  FM_CHECK_USAGE(shard_size >= 1, "--shard-size: at least 1, not ", shard_size);
  std::vector<SeedRange> runs;
  for (const SeedRange& range : ranges) {
    if (!runs.empty() &&
        runs.back().first + static_cast<std::uint64_t>(runs.back().count) == range.first)
      runs.back().count += range.count;
    else
      runs.push_back(range);
  }
  std::vector<PairShard> shards;
  for (const SeedRange& run : runs)
    for (int64_t done = 0; done < run.count; done += shard_size) {
      PairShard shard;
      shard.file = format("pairs-%06zu.safetensors", shards.size());
      shard.first_seed = run.first + static_cast<std::uint64_t>(done);
      shard.count = std::min(shard_size, run.count - done);
      shards.push_back(std::move(shard));
    }
  return shards;
}

fs::path pair_manifest_path(const fs::path& folder) { return folder / "pairs.json"; }

PairManifest read_pair_manifest(const fs::path& folder) {
  const fs::path path = pair_manifest_path(folder);
  FM_CHECK_USAGE(fs::is_regular_file(path), folder.string(), ": no pairs there (pairs.json "
                 "is missing); make them with `flowmap pairs --dest ", folder.string(), "`");
  const std::string text = read_file(path);
  PairManifest manifest;
  try {
    const PairJson j = PairJson::parse(text);
    if (j.at("format").get<std::string>() != kPairFormat)
      throw std::invalid_argument("format: \"" + std::string(kPairFormat) + "\" is known");
    manifest.recipe = recipe_of(j.at("recipe"));
    j.at("command").get_to(manifest.command);
    j.at("tool").get_to(manifest.tool);
    j.at("shard_size").get_to(manifest.shard_size);
    for (const PairJson& s : j.at("shards")) {
      PairShard& shard = manifest.shards.emplace_back();
      s.at("file").get_to(shard.file);
      s.at("first_seed").get_to(shard.first_seed);
      s.at("count").get_to(shard.count);
      s.at("bytes").get_to(shard.bytes);
      s.at("sha256").get_to(shard.sha256);
    }
    check_plan(manifest);
  } catch (const std::exception& error) {
    throw DataError(path.string(), {}, "the manifest of a folder of pairs", error.what());
  }
  return manifest;
}

void write_pair_manifest(const fs::path& folder, const PairManifest& manifest) {
  PairJson shards = PairJson::array();
  for (const PairShard& shard : manifest.shards)
    shards.push_back({{"file", shard.file},
                      {"first_seed", shard.first_seed},
                      {"count", shard.count},
                      {"bytes", shard.bytes},
                      {"sha256", shard.sha256}});
  const PairJson j = {{"format", kPairFormat},
                      {"order", "noise first"},
                      {"tool", manifest.tool},
                      {"command", manifest.command},
                      {"shard_size", manifest.shard_size},
                      {"recipe", recipe_json(manifest.recipe)},
                      {"shards", std::move(shards)}};
  write_file_atomic(pair_manifest_path(folder), j.dump(1) + "\n");
}

std::string recipe_difference(const PairRecipe& a, const PairRecipe& b) {
  const PairJson left = recipe_json(a), right = recipe_json(b);
  // The reader cares for these most; file names alone make no difference.
  for (const char* key : {"teacher_sha256", "solver"})
    if (left[key] != right[key])
      return std::string(key) + ": " + left[key].dump() + ", not " + right[key].dump();
  for (const auto& [key, value] : left.items())
    if (key != "teacher" && key != "guide" && value != right[key])
      return key + ": " + value.dump() + ", not " + right[key].dump();
  return "";
}

std::string weights_checksum(const fs::path& path) {
  if (!fs::is_directory(path)) return sha256_file(path);
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::string text;
  for (const fs::path& file : files)
    text += sha256_file(file) + " " + file.lexically_relative(path).generic_string() + "\n";
  return sha256_hex(std::as_bytes(std::span(text)));
}

std::vector<std::string> shard_faults(const fs::path& folder, const PairManifest& manifest,
                                      bool checksums) {
  CheckedFiles checked;
  if (checksums) checked = read_checked(folder);
  const CheckedFiles before = checked;
  std::vector<std::string> faults;
  for (const PairShard& shard : manifest.shards) {
    const fs::path path = folder / shard.file;
    std::string& fault = faults.emplace_back();
    std::error_code error;
    if (shard.bytes == 0 || !fs::is_regular_file(path, error)) {
      fault = "is missing";
      continue;
    }
    if (const auto size = static_cast<int64_t>(fs::file_size(path)); size != shard.bytes) {
      fault = format("is %s: %lld bytes, not %lld", size < shard.bytes ? "cut" : "altered",
                     static_cast<long long>(size), static_cast<long long>(shard.bytes));
      continue;
    }
    if (!checksums || checked[shard.file] == file_state(path, shard.sha256)) continue;
    checked.erase(shard.file);
    if (const std::string sum = sha256_file(path); sum != shard.sha256)
      fault = "was altered: sha256 " + sum.substr(0, 12) + "..., not " +
              shard.sha256.substr(0, 12) + "...";
    else
      checked[shard.file] = file_state(path, sum);
  }
  if (checksums && checked != before) {
    try {
      write_file_atomic(checked_path(folder), PairJson(checked).dump(1) + "\n");
    } catch (const Error&) {
      // A folder that cannot be written to is checked anew each time.
    }
  }
  return faults;
}

}  // namespace flowmap
