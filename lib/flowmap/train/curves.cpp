#include "flowmap/train/curves.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <vector>

#include "flowmap/formats/image.h"
#include "flowmap/base/text.h"
#include "flowmap/train/stats.h"

namespace flowmap {
namespace {

struct Series {
  std::vector<double> x, y;
};

constexpr int kPanelWidth = 520, kPanelHeight = 300, kLeft = 70, kRight = 14, kTop = 34,
              kBottom = 34;

const std::vector<cv::Scalar>& curve_colours() {
  static const std::vector<cv::Scalar> colours = {
      {31, 119, 180}, {214, 39, 40},   {44, 160, 44}, {255, 127, 14},
      {148, 103, 189}, {140, 86, 75}, {23, 190, 207}};
  return colours;
}

void curve_text(cv::Mat& canvas, const std::string& text, cv::Point at, double size,
                const cv::Scalar& colour) {
  cv::putText(canvas, text, at, cv::FONT_HERSHEY_SIMPLEX, size, colour, 1, cv::LINE_AA);
}

// One panel with all series over a shared x axis; logarithmic where every value allows it
// and they span more than a factor of 5.
void draw_panel(cv::Mat panel, const std::string& title,
                const std::map<std::string, Series>& series) {
  panel.setTo(cv::Scalar(255, 255, 255));
  double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
  for (const auto& [name, s] : series)
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      x_low = std::min(x_low, s.x[i]);
      x_high = std::max(x_high, s.x[i]);
      y_low = std::min(y_low, s.y[i]);
      y_high = std::max(y_high, s.y[i]);
    }
  if (!(x_high > x_low)) x_high = x_low + 1;
  const bool logarithmic = y_low > 0 && y_high > 5 * y_low;
  const auto scale = [&](double y) { return logarithmic ? std::log10(y) : y; };
  double low = scale(y_low), high = scale(y_high);
  if (!(high > low)) high = low + std::max(std::abs(low) * 0.1, 1e-9);
  const double margin = 0.05 * (high - low);
  low -= margin;
  high += margin;
  const int width = kPanelWidth - kLeft - kRight, height = kPanelHeight - kTop - kBottom;
  const auto place = [&](double x, double y) {
    return cv::Point(
        kLeft + static_cast<int>(std::lround((x - x_low) / (x_high - x_low) * width)),
        kTop + static_cast<int>(std::lround((high - scale(y)) / (high - low) * height)));
  };
  const cv::Scalar grey(225, 225, 225), dark(60, 60, 60);
  for (int i = 0; i <= 4; ++i) {
    const double level = low + (high - low) * i / 4;
    const int y = kTop + height - height * i / 4;
    cv::line(panel, {kLeft, y}, {kLeft + width, y}, grey);
    curve_text(panel, format("%.3g", logarithmic ? std::pow(10, level) : level),
               {4, y + 4}, 0.36, dark);
    const double x = x_low + (x_high - x_low) * i / 4;
    curve_text(panel, format("%.4g", x), {kLeft + width * i / 4 - 12, kTop + height + 16},
               0.36, dark);
  }
  cv::rectangle(panel, {kLeft, kTop, width, height}, dark);
  curve_text(panel, title + (logarithmic ? " (log)" : ""), {kLeft, 16}, 0.45, dark);
  curve_text(panel, "kimg", {kLeft + width - 30, kTop + height + 30}, 0.36, dark);
  int legend = kLeft;
  std::size_t k = 0;
  for (const auto& [name, s] : series) {
    const cv::Scalar colour = curve_colours()[k++ % curve_colours().size()];
    for (std::size_t i = 1; i < s.x.size(); ++i)
      cv::line(panel, place(s.x[i - 1], s.y[i - 1]), place(s.x[i], s.y[i]), colour, 1,
               cv::LINE_AA);
    curve_text(panel, name, {legend, 29}, 0.36, colour);
    legend += 12 + 7 * static_cast<int>(name.size());
  }
}

std::map<std::string, Series> series_of(const std::filesystem::path& path) {
  std::map<std::string, Series> all;
  for (const StatsRow& row : read_stats(path))
    for (const auto& [name, mean] : row.means) {
      all[name].x.push_back(row.kimg);
      all[name].y.push_back(mean);
    }
  return all;
}

}  // namespace

void draw_curves(const std::filesystem::path& stats_jsonl,
                 const std::filesystem::path& png) {
  const std::map<std::string, Series> all = series_of(stats_jsonl);
  // Panel title -> series; a key's own folder names its panel.
  std::map<std::string, std::map<std::string, Series>> panels;
  for (const auto& [name, s] : all) {
    if (s.x.size() < 2) continue;
    const auto slash = name.find('/');
    const std::string group = name.substr(0, slash), key = name.substr(slash + 1);
    if (group == "Timing" || group == "Resources" || name == "Progress/kimg" ||
        name == "Progress/tick" || name == "Health/nan_steps")
      continue;
    panels[group == "Loss" ? "Loss" : name][key] = s;
  }
  if (panels.empty()) return;
  const int columns = std::min<int>(2, static_cast<int>(panels.size()));
  const int rows = (static_cast<int>(panels.size()) + columns - 1) / columns;
  cv::Mat canvas(rows * kPanelHeight, columns * kPanelWidth, CV_8UC3,
                 cv::Scalar(255, 255, 255));
  int i = 0;
  for (const auto& [title, series] : panels) {
    const cv::Rect place((i % columns) * kPanelWidth, (i / columns) * kPanelHeight,
                         kPanelWidth, kPanelHeight);
    draw_panel(canvas(place), title, series);
    ++i;
  }
  Image image{canvas.cols, canvas.rows, 3, {}};
  image.pixels.assign(canvas.data, canvas.data + canvas.total() * 3);
  write_png(png, image);
}

}  // namespace flowmap
