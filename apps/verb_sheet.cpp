// flowmap sheet: one labelled picture out of several sets of images.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "apps/image_source.h"
#include "apps/picture.h"
#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/formats/image.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/data/dataset.h"

namespace fs = std::filesystem;

namespace flowmap::apps {
namespace {

struct SheetRow {
  std::vector<std::string> label;  // lines of text
  std::string source;
  Image picture;
};

struct SheetOptions {
  int columns = 16, lines = 1, scale = 2;
};

// Checked before anything of that size is made.
void check_sheet_size(std::int64_t width, std::int64_t height) {
  constexpr std::int64_t kMostPixels = std::int64_t{1} << 26;
  const bool fits = width == 0 || height <= kMostPixels / width;
  FM_CHECK_USAGE(fits, "--scale, --columns, --lines: a picture of ", width, "x", height,
                 " pixels; at most ", kMostPixels, " in all: take less of one of them");
}

constexpr int kPointsSize = 96;
constexpr std::int64_t kMostPoints = 8192;

// The grid of one row, before enlargement.
Image picture_of(const std::string& source, const SheetOptions& options) {
  for (const char* ending : {".png", ".jpg", ".jpeg"})
    if (ends_with_ignoring_case(source, ending)) return read_image(source);
  const std::shared_ptr<Dataset> data = open_samples(source, "--row");
  const DatasetInfo info = data->info();
  if (!info.images) {
    FM_CHECK_USAGE(info.sample_shape == std::vector<int64_t>{2}, "--row: ", source,
                   " holds points of ", info.sample_shape[0], " dimensions; a scatter ",
                   "plot takes two");
    const at::Tensor some = at::arange(std::min(kMostPoints, info.count), at::kLong);
    return points_picture(data->samples(some), kPointsSize);
  }
  const std::int64_t most = std::int64_t{options.columns} * options.lines;
  const std::int64_t lines = (std::min(most, info.count) + options.columns - 1) /
                             options.columns;
  check_sheet_size(info.sample_shape[2] * options.columns * options.scale,
                   info.sample_shape[1] * lines * options.scale);
  const at::Tensor index = at::arange(std::min(most, info.count), at::kLong);
  FM_CHECK_USAGE(index.numel() > 0, "--row: ", source, " holds no images");
  return make_grid(to_images(data->samples(index)), options.columns);
}

cv::Mat to_rgb(const Image& image) {
  const cv::Mat view(image.height, image.width, CV_8UC(image.channels),
                     const_cast<std::uint8_t*>(image.pixels.data()));
  cv::Mat rgb;
  if (image.channels == 1)
    cv::cvtColor(view, rgb, cv::COLOR_GRAY2RGB);
  else if (image.channels == 4)
    cv::cvtColor(view, rgb, cv::COLOR_RGBA2RGB);
  else
    rgb = view.clone();
  return rgb;
}

constexpr int kSheetFont = cv::FONT_HERSHEY_SIMPLEX;
constexpr double kSheetFontScale = 0.5;
constexpr int kSheetMargin = 12, kSheetLineHeight = 20;

// Labels on the left, pictures on the right, a gap between rows.
Image draw_sheet(const std::vector<SheetRow>& rows, int scale) {
  std::int64_t widest = 0, heights = 0;
  for (const SheetRow& row : rows) {
    widest = std::max(widest, std::int64_t{row.picture.width} * scale);
    heights += std::int64_t{row.picture.height} * scale;
  }
  check_sheet_size(widest, heights);
  int label_width = 0, picture_width = 0, height = kSheetMargin;
  std::vector<cv::Mat> pictures;
  for (const SheetRow& row : rows) {
    for (const std::string& line : row.label) {
      const int width =
          cv::getTextSize(line, kSheetFont, kSheetFontScale, 1, nullptr).width;
      label_width = std::max(label_width, width);
    }
    pictures.push_back(to_rgb(enlarge(row.picture, scale)));
    picture_width = std::max(picture_width, pictures.back().cols);
    const int text_height = kSheetLineHeight * static_cast<int>(row.label.size());
    height += std::max(pictures.back().rows, text_height) + kSheetMargin;
  }
  const int left = label_width + 2 * kSheetMargin;
  cv::Mat canvas(height, left + picture_width + kSheetMargin, CV_8UC3,
                 cv::Scalar(255, 255, 255));
  int top = kSheetMargin;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const int text_height = kSheetLineHeight * static_cast<int>(rows[i].label.size());
    const int row_height = std::max(pictures[i].rows, text_height);
    // The first line in black, the others in gray; the block centred beside its picture.
    int baseline = top + (row_height - text_height) / 2 + 15;
    for (std::size_t line = 0; line < rows[i].label.size(); ++line) {
      cv::putText(canvas, rows[i].label[line], {kSheetMargin, baseline}, kSheetFont,
                  kSheetFontScale,
                  line == 0 ? cv::Scalar(20, 20, 20) : cv::Scalar(110, 110, 110), 1,
                  cv::LINE_AA);
      baseline += kSheetLineHeight;
    }
    pictures[i].copyTo(canvas(cv::Rect(left, top, pictures[i].cols, pictures[i].rows)));
    top += row_height + kSheetMargin;
  }
  Image sheet{canvas.cols, canvas.rows, 3, {}};
  sheet.pixels.assign(canvas.data, canvas.data + canvas.total() * 3);
  return sheet;
}

// "LABEL=SOURCE"; the last "=" divides. A line break, or the two characters \n, divides
// the label into lines.
SheetRow parse_row(const std::string& text) {
  const std::size_t sign = text.rfind('=');
  FM_CHECK_USAGE(sign != std::string::npos && sign + 1 < text.size(), "--row: '", text,
                 "' is not LABEL=SOURCE");
  std::string label = text.substr(0, sign);
  for (std::size_t at = 0; (at = label.find("\\n", at)) != std::string::npos;)
    label.replace(at, 2, "\n");
  return {split(label, '\n'), text.substr(sign + 1), {}};
}

}  // namespace

int run_sheet(std::span<const std::string> words) {
  std::string dest;
  std::vector<std::string> rows;
  SheetOptions options;
  CLI::App app(
      "Put sets of images into one picture, a labelled row for each.\n\n"
      "  flowmap sheet --dest sheet.png --row 'teacher=teacher.npz' "
      "--row 'student\\n1 step=student.npz'\n",
      "flowmap sheet");
  app.add_option("--dest", dest, "the PNG to write")->required();
  bool overwrite = false;
  app.add_flag("--overwrite", overwrite, "replace the PNG if it is there");
  app.add_option("--row", rows,
                 "LABEL=SOURCE, once for each row. SOURCE: npz with arr_0, folder of "
                 "pictures, EDM zip, IDX files; points in two dimensions become a scatter "
                 "plot; a PNG or JPEG is shown whole. Several, divided by commas, stand "
                 "side by side. \\n in LABEL begins another line")
      ->required()
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--columns", options.columns, "images side by side")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  app.add_option("--lines", options.lines, "lines of images in each row")
      ->check(whole_number(1, 1000))
      ->capture_default_str();
  app.add_option("--scale", options.scale, "enlargement, a whole factor")
      ->check(whole_number(1, 32))
      ->capture_default_str();
  if (!parse_arguments(app, words)) return 0;
  require_ending(dest, ".png", "--dest");
  prepare_output(dest, overwrite, "--dest");

  std::vector<SheetRow> sheet;
  for (const std::string& text : rows) {
    sheet.push_back(parse_row(text));
    std::vector<Image> parts;
    for (const std::string& source : split(sheet.back().source, ','))
      parts.push_back(picture_of(source, options));
    const auto fits = [&](const Image& part) {
      return part.width == parts[0].width && part.height == parts[0].height &&
             part.channels == parts[0].channels;
    };
    FM_CHECK_USAGE(std::all_of(parts.begin(), parts.end(), fits), "--row: ",
                   sheet.back().source, ": pictures of several sizes");
    sheet.back().picture = make_grid(parts, static_cast<int>(parts.size()));
  }
  write_png(dest, draw_sheet(sheet, options.scale));
  log_line("wrote " + fs::absolute(dest).lexically_normal().string());
  return 0;
}

}  // namespace flowmap::apps
