// flowmap dataset convert: pictures of any source into an EDM data set (EDM's
// dataset_tool.py). flowmap dataset inspect: what a data set holds.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/convert/convert.h"
#include "flowmap/convert/picture_statistics.h"
#include "flowmap/data/picture_source.h"
#include "flowmap/formats/image.h"

namespace fs = std::filesystem;

namespace flowmap::apps {
namespace {

constexpr const char* kDatasetSources =
    "a folder of PNG or JPEG, a zip of them, CIFAR-10 or CIFAR-100 (tarball or unpacked), "
    "IDX files (MNIST), an npz with arr_0";

using DatasetClock = std::chrono::steady_clock;

double seconds_since(DatasetClock::time_point begin) {
  return std::chrono::duration<double>(DatasetClock::now() - begin).count();
}

// The progress line of both verbs.
class PictureProgress {
 public:
  void operator()(std::int64_t done, std::int64_t of) {
    if (!LiveLine::on_terminal()) return;
    const double seconds = seconds_since(begin_);
    const double rate = static_cast<double>(done) / std::max(seconds, 1e-3);
    line_.update(format("%lld of %lld pictures, %.0f a second, %s left",
                        static_cast<long long>(done), static_cast<long long>(of), rate,
                        format_duration(static_cast<double>(of - done) / rate).c_str()));
  }

 private:
  DatasetClock::time_point begin_ = DatasetClock::now();
  LiveLine line_;
};

// "64x48" or "64,48", as EDM's tool reads them.
void parse_resolution(const std::string& text, TransformOptions& to) {
  const std::size_t sign = text.find_first_of("x,");
  FM_CHECK_USAGE(sign != std::string::npos, "--resolution: '", text,
                 "' is not WIDTHxHEIGHT");
  const std::int64_t width = parse_int(text.substr(0, sign), "--resolution");
  const std::int64_t height = parse_int(text.substr(sign + 1), "--resolution");
  constexpr std::int64_t kMost = 16384;
  FM_CHECK_USAGE(width >= 1 && height >= 1 && width <= kMost && height <= kMost,
                 "--resolution: '", text, "': sizes from 1 to ", kMost);
  to.width = static_cast<int>(width);
  to.height = static_cast<int>(height);
}

std::string counted(std::int64_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

std::string channels_text(int channels) {
  return channels == 1 ? "gray" : channels == 3 ? "RGB" : "RGBA";
}

void warn_of_source(const PictureSourceFacts& facts) {
  if (facts.ignored > 0)
    log_warning(counted(facts.ignored, "file") +
                " passed over (neither .png nor .jpg nor .jpeg), the first " +
                facts.first_ignored);
  if (facts.missing > 0)
    log_warning("dataset.json names " + counted(facts.missing, "picture") +
                " not there, the first " + facts.first_missing);
}

void warn_of_result(const ConvertReport& report) {
  if (report.broken > 0)
    log_warning(counted(report.broken, "broken picture") + " passed over, the first: " +
                report.first_broken);
  if (report.too_small > 0)
    log_warning(counted(report.too_small, "picture") +
                " smaller than --resolution left out (center-crop-wide never enlarges)");
  if (report.alpha > 0)
    log_warning(counted(report.alpha, "picture") +
                " had an alpha channel, which was dropped without blending");
  const bool power = (report.width & (report.width - 1)) == 0;
  if (report.width != report.height || !power)
    log_warning(format("pictures of %dx%d: EDM's own programs take squares of a power of "
                       "two only",
                       report.width, report.height));
}

int run_dataset_convert(std::span<const std::string> words) {
  std::string source, resolution, transform = "none", filter = "lanczos";
  std::string split = "train", gray = "keep";
  ConvertOptions options;
  bool overwrite = false;
  CLI::App app(
      "Make a data set (a zip that EDM's programs read, or a folder) out of pictures.\n\n"
      "  flowmap dataset convert --source=cifar-10-python.tar.gz "
      "--dest=datasets/cifar10-32x32.zip\n"
      "  flowmap dataset convert --source=photos/ --dest=datasets/photos-64x64.zip "
      "--resolution=64x64 --transform=center-crop\n",
      "flowmap dataset convert");
  app.add_option("--source", source, kDatasetSources)->required()->check(not_empty());
  app.add_option("--dest", options.dest, "a .zip, or a folder that is new or empty")
      ->required()
      ->check(not_empty());
  app.add_option("--max-images", options.max_images, "only the first so many")
      ->check(whole_number(1));
  app.add_option("--transform", transform,
                 "none, center-crop, center-crop-wide, center-crop-dhariwal (EDM2's)")
      ->capture_default_str();
  app.add_option("--resolution", resolution, "WxH of the pictures written");
  app.add_option("--resize-filter", filter,
                 "box, bilinear, hamming, bicubic, lanczos (as Pillow's; "
                 "center-crop-dhariwal has its own)")
      ->capture_default_str();
  app.add_option("--gray", gray,
                 "gray pictures without a crop: keep (EDM) or rgb (EDM2); crops make RGB")
      ->capture_default_str();
  app.add_option("--pad", options.transform.pad,
                 "black pixels around each picture first (EDM's tool pads MNIST by 2)")
      ->check(whole_number(0, 4096));
  app.add_option("--split", split, "train or test, of CIFAR and folders of IDX files")
      ->capture_default_str();
  app.add_flag("--skip-bad", options.skip_bad, "pass over broken and missing pictures");
  app.add_option("--workers", options.workers, "threads (0: as many as processors)")
      ->check(whole_number(0, 256))
      ->capture_default_str();
  app.add_option("--compression", options.compression,
                 "of the PNGs: 0 (stored, fast to read, EDM's) to 9")
      ->check(whole_number(0, 9))
      ->capture_default_str();
  app.add_flag("--overwrite", overwrite, "replace the zip if it is there");
  if (!parse_arguments(app, words)) return 0;

  TransformOptions& shape = options.transform;
  shape.transform = parse_picture_transform(transform, "--transform");
  shape.filter = parse_resample_filter(filter, "--resize-filter");
  if (!resolution.empty()) parse_resolution(resolution, shape);
  FM_CHECK_USAGE(gray == "keep" || gray == "rgb", "--gray: '", gray,
                 "' is neither keep nor rgb");
  shape.gray_to_rgb = gray == "rgb";
  FM_CHECK_USAGE(split == "train" || split == "test", "--split: '", split,
                 "' is neither train nor test");
  check_transform(shape);
  if (!fs::is_directory(options.dest)) prepare_output(options.dest, overwrite, "--dest");

  const std::shared_ptr<PictureSource> pictures = open_pictures(source, "--source", split);
  const PictureSourceFacts facts = pictures->facts();
  warn_of_source(facts);
  if (facts.kind == "IDX" && shape.pad == 0 && resolution.empty())
    log_warning("EDM's tool makes MNIST 32x32 by two black pixels around it; --pad=2 does");
  install_interrupt_handler();
  const auto begin = DatasetClock::now();
  ConvertReport report;
  {
    PictureProgress progress;
    report = convert_pictures(*pictures, options,
                              [&](std::int64_t done, std::int64_t of) { progress(done, of); });
  }
  warn_of_result(report);
  const double seconds = seconds_since(begin);
  log_line(format("wrote %s: %lld pictures of %dx%d %s%s, %s (%.0f a second)",
                  fs::absolute(options.dest).lexically_normal().c_str(),
                  static_cast<long long>(report.written), report.width, report.height,
                  channels_text(report.channels).c_str(),
                  report.labelled ? " with labels" : " without labels",
                  format_duration(seconds).c_str(),
                  static_cast<double>(report.written) / std::max(seconds, 1e-3)));
  return 0;
}

std::string label_text(const PictureLabel& label) {
  if (const auto* number = std::get_if<std::int64_t>(&label))
    return std::to_string(*number);
  std::vector<std::string> parts;
  for (const float value : std::get<std::vector<float>>(label)) {
    if (parts.size() == 4) {
      parts.emplace_back("...");
      break;
    }
    parts.push_back(format("%g", double{value}));
  }
  return "[" + join(parts, " ") + "]";
}

void print_labels(const PictureSource& source, const PictureStatistics& statistics,
                  const PictureSourceFacts& facts) {
  constexpr std::int64_t kFirstLabels = 5;
  if (!source.label(0)) {
    log_line("labels      none");
    return;
  }
  if (statistics.label_width > 0) {
    log_line(format("labels      vectors of %zu numbers", statistics.label_width));
  } else {
    const auto& classes = statistics.classes;
    const auto less = [](const auto& a, const auto& b) { return a.second < b.second; };
    const auto [least, most] = std::minmax_element(classes.begin(), classes.end(), less);
    log_line(format("classes     %zu, with %lld to %lld pictures each", classes.size(),
                    static_cast<long long>(least->second),
                    static_cast<long long>(most->second)));
    constexpr std::size_t kMostListed = 20;
    std::size_t listed = 0;
    for (const auto& [number, count] : classes) {
      if (listed++ == kMostListed) {
        log_line(format("            ... and %zu more", classes.size() - kMostListed));
        break;
      }
      const auto at = static_cast<std::size_t>(number);
      const std::string name =
          at < facts.class_names.size() ? "  " + facts.class_names[at] : "";
      log_line(format("  %6lld    %lld%s", static_cast<long long>(number),
                      static_cast<long long>(count), name.c_str()));
    }
  }
  std::string first = "first       ";
  for (std::int64_t k = 0; k < std::min(kFirstLabels, source.size()); ++k)
    first += (k ? " " : "") + label_text(*source.label(k));
  log_line(first);
}

void print_statistics(const PictureStatistics& statistics) {
  for (const auto& [shape, count] : statistics.shapes)
    log_line(format("size        %dx%d %s%s", shape[0], shape[1],
                    channels_text(shape[2]).c_str(),
                    statistics.shapes.size() > 1
                        ? format(" (%lld)", static_cast<long long>(count)).c_str()
                        : ""));
  const auto numbers = [](const std::vector<double>& values) {
    std::string text;
    for (const double value : values) text += format("%s%.8f", text.empty() ? "" : " ", value);
    return text;
  };
  log_line("mean        " + numbers(statistics.mean) + "   (of pixels / 255)");
  log_line("deviation   " + numbers(statistics.deviation) + "   (over all pixels)");
  log_line(format("duplicates  %lld", static_cast<long long>(statistics.duplicates)));
}

int run_dataset_inspect(std::span<const std::string> words) {
  std::string data, sheet, split = "train";
  std::int64_t shown = 64;
  int workers = 0;
  bool overwrite = false;
  CLI::App app(
      "What a set of pictures holds: counts, sizes, classes, mean and deviation.\n\n"
      "  flowmap dataset inspect datasets/cifar10-32x32.zip --sheet=cifar10.png\n",
      "flowmap dataset inspect");
  app.add_option("DATA", data, kDatasetSources)->required()->check(not_empty());
  app.add_option("--sheet", sheet, "a PNG to write, with samples spread over the set")
      ->check(not_empty());
  app.add_option("--num", shown, "samples in it")
      ->check(whole_number(1, 4096))
      ->capture_default_str();
  app.add_option("--split", split, "train or test, of CIFAR and folders of IDX files")
      ->capture_default_str();
  app.add_option("--workers", workers, "threads (0: as many as processors)")
      ->check(whole_number(0, 256))
      ->capture_default_str();
  app.add_flag("--overwrite", overwrite, "replace the PNG if it is there");
  if (!parse_arguments(app, words)) return 0;
  FM_CHECK_USAGE(split == "train" || split == "test", "--split: '", split,
                 "' is neither train nor test");
  if (!sheet.empty()) {
    require_ending(sheet, ".png", "--sheet");
    prepare_output(sheet, overwrite, "--sheet");
  }
  const std::shared_ptr<PictureSource> source = open_pictures(data, "DATA", split);
  const PictureSourceFacts facts = source->facts();
  warn_of_source(facts);
  install_interrupt_handler();
  PictureStatistics statistics;
  {
    PictureProgress progress;
    statistics = picture_statistics(
        *source, workers, [&](std::int64_t done, std::int64_t of) { progress(done, of); });
  }
  log_line("source      " + fs::absolute(data).lexically_normal().string() + " (" +
           facts.kind + ")");
  log_line(format("pictures    %lld", static_cast<long long>(statistics.count)));
  if (statistics.count > 0) print_statistics(statistics);
  print_labels(*source, statistics, facts);
  if (!sheet.empty() && statistics.count > 0) {
    write_png(sheet, picture_overview(*source, shown));
    log_line("wrote " + fs::absolute(sheet).lexically_normal().string());
  }
  if (statistics.broken > 0)
    throw DataError(data, {}, "pictures without damage",
                    counted(statistics.broken, "broken one") + ", the first: " +
                        statistics.first_broken);
  return 0;
}

}  // namespace

int run_dataset(std::span<const std::string> words) {
  const std::string first = words.empty() ? "--help" : words.front();
  if (first == "convert") return run_dataset_convert(words.subspan(1));
  if (first == "inspect") return run_dataset_inspect(words.subspan(1));
  if (first == "--help" || first == "-h") {
    log_line(
        "flowmap dataset convert   pictures of any source into a data set (EDM's zip)\n"
        "flowmap dataset inspect   what a data set holds\n\n"
        "`flowmap dataset convert --help` lists the flags.");
    return 0;
  }
  const std::vector<std::string> known{"convert", "inspect"};
  throw UsageError("dataset: unknown command '" + first + "'" + suggestion(first, known));
}

}  // namespace flowmap::apps
