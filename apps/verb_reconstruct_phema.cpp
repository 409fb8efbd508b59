// flowmap reconstruct_phema: averages of a run under power profiles chosen afterwards.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "apps/cli.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/log.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/base/text.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/ema.h"
#include "flowmap/train/phema.h"

namespace fs = std::filesystem;

namespace flowmap::apps {
namespace {

struct PhemaOptions {
  std::string indir, inprefix, instd, outdir, outprefix = "phema", outstd;
  std::int64_t outkimg = -1;  // -1: where the run stands
  int batch = 8;
  bool skip = false;
};

struct SavedAverage {
  fs::path file;
  std::int64_t images = 0;
  double std = 0;
};

struct WantedAverage {
  fs::path file;
  double std = 0;
  PosthocSolution solution;
  std::map<std::string, at::Tensor> tensors;  // float64 sums; others as in the files
};

// Above 0 and below the flat profile's; `flag` names the list.
std::vector<double> parse_stds(const std::string& text, const char* flag) {
  const std::vector<double> stds = parse_double_list(text, flag);
  for (const double std : stds)
    FM_CHECK_USAGE(std >= 1e-3 && std <= 0.288, flag, ": ", std,
                   " is outside 0.001 to 0.288, the relative widths that power profiles "
                   "can have");
  return stds;
}

// Snapshots of power profiles in the folder, the oldest first.
std::vector<SavedAverage> list_averages(const PhemaOptions& options) {
  FM_CHECK_USAGE(fs::is_directory(options.indir), "--indir: ", options.indir,
                 " is no folder; name the run folder with the snapshots");
  const std::vector<double> only =
      options.instd.empty() ? std::vector<double>{} : parse_stds(options.instd, "--instd");
  std::vector<SavedAverage> found;
  int others = 0;
  for (const auto& entry : fs::directory_iterator(options.indir)) {
    const fs::path& path = entry.path();
    const std::string name = path.filename().string();
    if (!entry.is_regular_file() || path.extension() != ".safetensors" ||
        !name.starts_with(options.inprefix))
      continue;
    const SafetensorsReader reader(path);
    const auto& metadata = reader.metadata();
    const auto profile = metadata.find("ema"), seen = metadata.find("images_seen");
    if (profile == metadata.end() || seen == metadata.end()) continue;
    const auto std = power_std_of_text(profile->second);
    if (!std) {
      ++others;
      continue;
    }
    if (!only.empty() && std::find(only.begin(), only.end(), *std) == only.end()) continue;
    const std::int64_t images = parse_int(seen->second, path.string() + ": images_seen");
    // Before the first step there is no average yet.
    if (images > 0) found.push_back({path, images, *std});
  }
  FM_CHECK_USAGE(!found.empty(), "--indir: ", options.indir,
                 " holds no snapshot of a power profile",
                 options.inprefix.empty() ? "" : " under --inprefix",
                 options.instd.empty() ? "" : " with --instd",
                 others ? format(" (%d of other averages)", others) : std::string(),
                 "; train with trainer.ema = [{\"type\": \"power\", \"std\": 0.05}, "
                 "{\"type\": \"power\", \"std\": 0.1}] and trainer.snap above 0");
  std::sort(found.begin(), found.end(), [](const SavedAverage& a, const SavedAverage& b) {
    return std::tie(a.images, a.std, a.file) < std::tie(b.images, b.std, b.file);
  });
  for (std::size_t i = 1; i < found.size(); ++i)
    FM_CHECK_USAGE(found[i].images != found[i - 1].images ||
                       found[i].std != found[i - 1].std,
                   "--indir: ", found[i - 1].file.string(), " and ",
                   found[i].file.string(), " are the same average of the same moment; "
                   "move one away, or choose by --inprefix");
  return found;
}

// Drops what is younger than the moment asked for; one snapshot must be of that moment.
std::int64_t cut_at_moment(std::vector<SavedAverage>& saved, const PhemaOptions& options) {
  if (options.outkimg < 0) return saved.back().images;
  std::int64_t moment = -1;
  std::set<std::string> known;
  for (const SavedAverage& average : saved) {
    known.insert(std::to_string(average.images / 1000));
    if (average.images / 1000 == options.outkimg) moment = average.images;
  }
  FM_CHECK_USAGE(moment > 0, "--outkimg: no snapshot at ", options.outkimg,
                 " kimg; there are: ",
                 join(std::vector<std::string>(known.begin(), known.end()), ", "));
  std::erase_if(saved, [&](const SavedAverage& a) { return a.images > moment; });
  return moment;
}

void check_same_network(const SavedAverage& first, const SafetensorsReader& one,
                        const SavedAverage& other, const SafetensorsReader& two) {
  const auto spec = [](const SafetensorsReader& reader) {
    const auto found = reader.metadata().find("spec");
    return found == reader.metadata().end() ? std::string() : found->second;
  };
  const char* const remedy = "the network of the other snapshots (of one run only; choose "
                             "by --inprefix)";
  if (spec(one) != spec(two) || one.entries().size() != two.entries().size())
    throw DataError(other.file.string(), {}, remedy,
                    "another specification than " + first.file.string());
  for (const SafetensorsEntry& entry : one.entries()) {
    const SafetensorsEntry* twin = two.find(entry.name);
    if (!twin || twin->shape != entry.shape || twin->dtype != entry.dtype)
      throw DataError(other.file.string(), {}, remedy, "another '" + entry.name + "'");
  }
}

// One pass over the snapshots, one of them in memory at a time.
void accumulate(const std::vector<SavedAverage>& saved,
                const std::span<WantedAverage> wanted) {
  const SafetensorsReader first(saved[0].file);
  LiveLine live;
  for (std::size_t i = 0; i < saved.size(); ++i) {
    if (interrupted())
      throw Interrupted("interrupted; the averages that were written stay");
    live.update(format("snapshot %zu of %zu", i + 1, saved.size()));
    const SafetensorsReader reader(saved[i].file);
    check_same_network(saved[0], first, saved[i], reader);
    for (const SafetensorsEntry& entry : reader.entries()) {
      const at::Tensor stored = read_tensor(reader, entry.name);
      const bool sums = stored.is_floating_point();
      const at::Tensor value = sums ? stored.to(at::kDouble) : stored;
      for (WantedAverage& average : wanted) {
        at::Tensor& sum = average.tensors[entry.name];
        if (!sum.defined()) sum = sums ? at::zeros_like(value) : value;
        if (sums) sum.add_(value, average.solution.coefficients[i]);
      }
    }
  }
}

void write_average(WantedAverage& average, std::map<std::string, std::string> metadata,
                   std::size_t snapshots) {
  for (auto& [name, tensor] : average.tensors) {
    if (tensor.scalar_type() != at::kDouble) continue;
    tensor = tensor.to(at::kFloat);
    if (!tensor.isfinite().all().item<bool>())
      throw DataError(average.file.string(), {}, "finite weights",
                      "'" + name + "' is not; are all snapshots sound?");
  }
  metadata["ema"] = reconstructed_text(average.std);
  metadata.erase("scores");  // of other weights
  save_tensors(average.file, average.tensors, metadata);
  average.tensors.clear();
  log_line(format("wrote %s from %zu snapshots, profile met to %.2g%%",
                  average.file.string().c_str(), snapshots,
                  100 * average.solution.residual));
}

}  // namespace

int run_reconstruct_phema(std::span<const std::string> words) {
  PhemaOptions options;
  CLI::App app(
      "Averages of a run's weights under power profiles that were not tracked (post-hoc\n"
      "EMA of EDM2), from its snapshots of those that were.",
      "flowmap reconstruct_phema");
  app.add_option("--indir", options.indir, "run folder with snapshots of power profiles")
      ->required();
  app.add_option("--inprefix", options.inprefix, "take only files whose names begin so");
  app.add_option("--instd", options.instd, "take only profiles of these widths: 0.05,0.1");
  app.add_option("--outdir", options.outdir, "where the new snapshots go")
      ->required()
      ->check(not_empty());
  app.add_option("--outprefix", options.outprefix, "PREFIX-KIMG-STD.safetensors")
      ->capture_default_str();
  app.add_option("--outstd", options.outstd, "relative widths wanted: 0.05,0.1,0.15")
      ->required();
  app.add_option("--outkimg", options.outkimg,
                 "moment of the run in kimg, one that has a snapshot; default: the last")
      ->check(whole_number(0));
  app.add_option("--batch", options.batch,
                 "averages made in one pass over the snapshots; 8 bytes a weight each")
      ->check(whole_number(1, 10000))
      ->capture_default_str();
  app.add_flag("--skip", options.skip, "leave those that are there already");
  app.footer("\nExample: flowmap reconstruct_phema --indir training-runs/00000-... "
             "--outdir phema --outstd 0.05,0.1,0.15");
  if (!parse_arguments(app, words)) return 0;
  FM_CHECK_USAGE(options.outprefix.find('/') == std::string::npos, "--outprefix: '",
                 options.outprefix, "' may hold no '/'; folders are for --outdir");
  install_interrupt_handler();

  std::vector<SavedAverage> saved = list_averages(options);
  const std::int64_t moment = cut_at_moment(saved, options);
  std::vector<PowerProfile> profiles;
  for (const SavedAverage& average : saved)
    profiles.push_back({static_cast<double>(average.images), average.std});
  std::vector<WantedAverage> wanted;
  std::set<double> asked;
  for (const double std : parse_stds(options.outstd, "--outstd")) {
    if (!asked.insert(std).second) continue;
    const fs::path file =
        fs::path(options.outdir) /
        format("%s-%07lld-%s.safetensors", options.outprefix.c_str(),
               static_cast<long long>(moment / 1000), power_std_text(std).c_str());
    if (options.skip && fs::exists(file)) {
      log_line("skipped " + file.string() + ", which is there");
      continue;
    }
    const PowerProfile profile{static_cast<double>(moment), std};
    wanted.push_back({file, std, solve_posthoc(profiles, profile), {}});
  }
  make_directories(options.outdir);
  const std::map<std::string, std::string> metadata =
      SafetensorsReader(saved.back().file).metadata();
  const std::span<WantedAverage> all(wanted);
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t count =
        std::min<std::size_t>(all.size() - at, static_cast<std::size_t>(options.batch));
    accumulate(saved, all.subspan(at, count));
    for (WantedAverage& average : all.subspan(at, count))
      write_average(average, metadata, saved.size());
    at += count;
  }
  return 0;
}

}  // namespace flowmap::apps
