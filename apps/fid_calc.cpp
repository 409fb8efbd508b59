// flowmap fid calc: samples in files against a reference.
#include <CLI/CLI.hpp>

#include "apps/cli.h"
#include "apps/fid_flags.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {

int fid_calc(std::span<const std::string> words) {
  FidFlags o;
  std::string images;
  CLI::App app("Scores samples.\n\nExample:\n"
               "  flowmap fid calc --images fid-tmp --ref fid-refs/fashion-mnist.npz "
               "--num 10000",
               "flowmap fid calc");
  app.add_option("--images", images, "folder of PNG/JPEG, zip, npz (arr_0 or points), "
                 "IDX files");
  app.add_option("--num", o.num, "how many samples; where there are more, a random subset "
                 "(default: 50000)")
      ->check(not_empty());
  app.add_option("--seed", o.seed, "of that subset")
      ->check(whole_number(0))
      ->capture_default_str();
  add_fid_flags(app, o);
  app.add_option("--device", o.score.detector.device,
                 "cpu, cuda, cuda:N (default: cuda where found)");
  app.add_option("--dtype", o.score.detector.dtype, "of the detector: float32, bf16")
      ->capture_default_str();
  app.add_flag("--skip-bad", o.score.skip_bad, "leave out pictures that are broken");
  if (!parse_arguments(app, words)) return 0;
  FM_CHECK_USAGE(!images.empty(), "--images is required");
  check_fid_flags(o);
  install_interrupt_handler();

  const auto source = open_source(images, "--images");
  const DatasetInfo info = source->info();
  const char* noun = info.images ? "images" : "points";
  const int64_t num = wanted_count(o.num, 50000), wanted = num * o.repeats;
  FM_CHECK_USAGE(info.count >= wanted, "--images: ", images, " holds ", info.count, " ",
                 noun, ", ", o.repeats == 1 ? "" : "--repeats of ", "--num asks for ",
                 wanted, o.num.empty() ? " (the default)" : "",
                 "; make more or pass --num ", info.count / o.repeats);
  Scoring scoring(o.score, info, o.ref.empty() ? Reference{} : open_reference(o.ref, "--ref"),
                  "edm");
  // First, so that statistics that do not fit are refused at once.
  scoring.prepare(num);
  ScoreReport report = begin_report(scoring, info);
  report.samples = images;
  report.seed = o.seed;
  for (const Rows& rows : choose_rows(info.count, num, o.seed, o.repeats)) {
    report.blocks.push_back(scoring.score(*source, rows, "--images"));
    report.block_names.push_back(format("subset %zu", report.blocks.size()));
  }
  print_report(report, o.json);
  if (!o.record.empty()) record_scores(report, o.record, o.record_as);
  if (!o.nearest.empty()) draw_nearest(o.nearest, scoring, *source, report.blocks[0]);
  return 0;
}

}  // namespace flowmap::apps
