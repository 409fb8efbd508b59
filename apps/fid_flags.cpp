#include "apps/fid_flags.h"

#include <CLI/CLI.hpp>

#include <filesystem>

#include "apps/cli.h"
#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {

void add_detector_flags(CLI::App& app, DetectorFlags& flags) {
  app.add_option("--detector", flags.detector,
                 "inception, fmnist64, points, or a file of weights: the Inception's (.pth, "
                 ".pt, .safetensors) or a classifier's snapshot; by default what fits the "
                 "samples (docs/metrics.md says where weights come from)")
      ->check(not_empty());
  app.add_option("--mode", flags.mode,
                 "how pictures are resized: clean, legacy_tensorflow, legacy_pytorch, edm "
                 "(default: what the statistics say, else edm)");
}

void add_fid_flags(CLI::App& app, FidFlags& flags) {
  app.add_option("--ref", flags.ref,
                 "statistics (npz of flowmap, EDM, pytorch-fid, clean-fid, "
                 "guided-diffusion; EDM2's pickle), or samples")
      ->check(not_empty());
  app.add_option("--metrics", flags.score.metrics,
                 "comma list: fid, fid768, fd, kid, is, pr, prdc, sfid, memorisation, kl48, "
                 "... (default: fid over the Inception, fd over others)")
      ->check(not_empty());
  app.add_option("--batch", flags.score.batch, "samples at once")
      ->check(whole_number(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--repeats", flags.repeats,
                 "score so many disjoint sets of samples: min, mean and spread")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  app.add_option("--bootstrap", flags.score.bootstrap,
                 "95% intervals of FID and KID from so many resamples (0: none)")
      ->check(whole_number(0, 100000))
      ->capture_default_str();
  app.add_flag("--json", flags.json, "the result as one JSON object");
  app.add_flag("--force", flags.score.force,
               "compare with statistics of another detector, mode, resolution or count");
  app.add_option("--nearest", flags.nearest,
                 "PNG of the samples closest to the reference, each beside its nearest "
                 "(with --metrics memorisation)")
      ->check(not_empty());
  app.add_option("--record", flags.record,
                 "snapshot whose metadata takes the scores (flowmap inspect)")
      ->check(not_empty());
  app.add_option("--record-as", flags.record_as, "how they were made, e.g. \"1 step\"");
  add_detector_flags(app, flags.score.detector);
}

void check_fid_flags(const FidFlags& flags) {
  if (!flags.score.metrics.empty())
    for (const std::string& part : split(flags.score.metrics, ',')) {
      const std::string name(trim(part));
      bool compares = true;
      under_flag("--metrics", [&] {
        compares = metrics::make_metric(name, Config())->needs_reference();
      });
      FM_CHECK_USAGE(!compares || !flags.ref.empty(), "--ref: metric ", name,
                     " needs a reference: statistics (`flowmap fid ref`), a folder, a "
                     "zip, IDX files");
    }
  FM_CHECK_USAGE(flags.ref.empty() || std::filesystem::exists(flags.ref), "--ref: ",
                 flags.ref, " does not exist");
  check_detector_flags(flags.score.detector);
  if (!flags.record.empty()) check_record(flags.record);
  check_nearest(flags);
}

int64_t wanted_count(const std::string& text, int64_t fallback) {
  if (text.empty()) return fallback;
  const int64_t num = parse_count(text, CountUnit::images, "--num");
  FM_CHECK_USAGE(num >= 2, "--num: at least 2 samples are needed, got ", num);
  return num;
}

}  // namespace flowmap::apps
