// flowmap fid gen: samples and scores in one go; no image is written.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>

#include "apps/cli.h"
#include "apps/fid_flags.h"
#include "apps/sampling.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {
namespace {

// EDM's protocol: seeds 0-49999, then 50000-99999, ...: each block moved on by the width of
// the first.
std::vector<Rows> seed_blocks(const Rows& first, int64_t repeats) {
  const auto [low, high] = std::minmax_element(first.begin(), first.end());
  const int64_t width = *high - *low + 1;
  std::vector<Rows> blocks(static_cast<std::size_t>(repeats), first);
  for (int64_t b = 1; b < repeats; ++b)
    for (int64_t& seed : blocks[static_cast<std::size_t>(b)]) seed += b * width;
  return blocks;
}

std::string block_name(const Rows& seeds) {
  const auto [low, high] = std::minmax_element(seeds.begin(), seeds.end());
  return format("seeds %lld-%lld", static_cast<long long>(*low),
                static_cast<long long>(*high));
}

}  // namespace

int fid_gen(std::span<const std::string> words) {
  FidFlags o;
  SamplingFlags sampling_flags;
  std::string seeds;
  CLI::App app("Samples a network and scores the samples; writes no image.\n\nExample:\n"
               "  flowmap fid gen --network student.safetensors --ref fid-refs/"
               "fashion-mnist.npz --num 10000 --steps 1",
               "flowmap fid gen");
  add_fid_flags(app, o);  // its --force goes for --schedule-file too
  add_sampling_flags(app, sampling_flags);
  add_class_flag(app, sampling_flags);
  app.add_option("--seeds", seeds, "seeds, one a sample: 0-49999 (default)")
      ->check(not_empty());
  app.add_option("--num", o.num, "seeds 0 to N-1 (default: 50000)")->check(not_empty());
  app.add_option("--detector-dtype", o.score.detector.dtype,
                 "of the detector: float32, bf16")
      ->capture_default_str();
  if (!parse_arguments(app, words)) return 0;
  FM_CHECK_USAGE(seeds.empty() || o.num.empty(), "--seeds and --num exclude each other");
  check_fid_flags(o);
  if (!sampling_flags.schedule.schedule_file.empty() ||
      !sampling_flags.network.adapter.empty())
    sampling_flags.schedule.force = o.score.force;
  Rows first = seeds.empty() ? Rows(static_cast<std::size_t>(wanted_count(o.num, 50000)))
                             : parse_int_list(seeds, "--seeds");
  if (seeds.empty())
    for (std::size_t i = 0; i < first.size(); ++i) first[i] = static_cast<int64_t>(i);
  FM_CHECK_USAGE(first.size() >= 2, "--seeds: at least 2 samples are needed, got ",
                 first.size());
  install_interrupt_handler();

  const Reference reference =
      o.ref.empty() ? Reference{} : open_reference(o.ref, "--ref");
  const Sampling sampling = prepare_sampling(app, sampling_flags);
  o.score.detector.device = sampling_flags.device;
  const auto source = generated_source(sampling, sampling_flags.network.network);
  const DatasetInfo info = source->info();
  Scoring scoring(o.score, info, reference, "edm");
  scoring.prepare(static_cast<int64_t>(first.size()));
  ScoreReport report = begin_report(scoring, info);
  report.samples = sampling_flags.network.network;
  report.samples_key = "network";
  report.made_by = sampling.text();
  report.seed = first.front();
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  int64_t made = 0;
  for (const Rows& block : seed_blocks(first, o.repeats)) {
    report.blocks.push_back(scoring.score(*source, block, "--network"));
    report.block_names.push_back(block_name(block));
    made += report.blocks.back().samples.features.count;
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  if (!o.json)
    log_line(format("%lld %s sampled and scored in %.2f s, %.1f a second",
                    static_cast<long long>(made), report.noun.c_str(), seconds,
                    static_cast<double>(made) / std::max(seconds, 1e-9)));
  print_report(report, o.json);
  if (!o.record.empty())
    record_scores(report, o.record, o.record_as.empty() ? sampling.text() : o.record_as);
  if (!o.nearest.empty()) draw_nearest(o.nearest, scoring, *source, report.blocks[0]);
  return 0;
}

}  // namespace flowmap::apps
