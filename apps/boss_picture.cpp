// Pictures of a search.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <vector>

#include "apps/boss_options.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {
namespace {

constexpr int kMatrixSide = 520, kStepsWidth = 460, kBossLeft = 60, kBossTop = 44,
              kBossBottom = 40, kBossGap = 90;

void boss_text(cv::Mat& canvas, const std::string& text, cv::Point at,
               double size = 0.4, const cv::Scalar& colour = {40, 40, 40}) {
  cv::putText(canvas, text, at, cv::FONT_HERSHEY_SIMPLEX, size, colour, 1, cv::LINE_AA);
}

// Colours of the budgets, from violet (few evaluations) to red (many).
cv::Scalar budget_colour(std::size_t k, std::size_t count) {
  const double hue = 150 - 150 * static_cast<double>(k) /
                               static_cast<double>(std::max<std::size_t>(count - 1, 1));
  const cv::Mat hsv(1, 1, CV_8UC3, cv::Scalar(hue, 230, 200));
  cv::Mat rgb;
  cv::cvtColor(hsv, rgb, cv::COLOR_HSV2RGB);
  const auto pixel = rgb.at<cv::Vec3b>(0, 0);
  return {static_cast<double>(pixel[0]), static_cast<double>(pixel[1]),
          static_cast<double>(pixel[2])};
}

// Cells of the upper triangle, the logarithm over the four decades below the largest.
cv::Mat matrix_picture(const at::Tensor& cost) {
  const at::Tensor c = cost.to(at::kCPU, at::kDouble).contiguous();
  const auto n = static_cast<int>(c.size(0));
  const double most = std::max(c.max().item<double>(), 1e-300);
  constexpr double kDecades = 4;
  cv::Mat level(n, n, CV_8UC1, cv::Scalar(0));
  const double* const data = c.const_data_ptr<double>();
  for (int i = 0; i < n; ++i)
    for (int j = i + 1; j < n; ++j) {
      const double value = data[i * n + j];
      const double fraction = value > 0 ? 1 + std::log10(value / most) / kDecades : 0;
      level.at<std::uint8_t>(i, j) =
          cv::saturate_cast<std::uint8_t>(255 * std::clamp(fraction, 0.0, 1.0));
    }
  cv::Mat coloured, rgb;
  cv::applyColorMap(level, coloured, cv::COLORMAP_VIRIDIS);
  cv::cvtColor(coloured, rgb, cv::COLOR_BGR2RGB);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j <= i; ++j) rgb.at<cv::Vec3b>(i, j) = {255, 255, 255};
  cv::Mat large;
  cv::resize(rgb, large, {kMatrixSide, kMatrixSide}, 0, 0, cv::INTER_NEAREST);
  return large;
}

// Where a time stands among the anchors, as a fraction of the matrix's side.
double place_of_time(double time, const std::vector<double>& times) {
  const auto above = std::lower_bound(times.begin(), times.end(), time);
  if (above == times.begin()) return 0.5 / static_cast<double>(times.size());
  if (above == times.end()) return 1 - 0.5 / static_cast<double>(times.size());
  const auto i = static_cast<std::size_t>(above - times.begin());
  const double part = (time - times[i - 1]) / (times[i] - times[i - 1]);
  return (static_cast<double>(i - 1) + part + 0.5) / static_cast<double>(times.size());
}

Image image_of(const cv::Mat& canvas) {
  Image image{canvas.cols, canvas.rows, 3, {}};
  image.pixels.assign(canvas.data, canvas.data + canvas.total() * 3);
  return image;
}

}  // namespace

Image boss_picture(const at::Tensor& cost, const std::vector<double>& times,
                   const std::vector<samplers::ScheduleBudget>& budgets,
                   const std::vector<std::vector<double>>& budget_times) {
  const int height = kBossTop + kMatrixSide + kBossBottom;
  cv::Mat canvas(height, kBossLeft + kMatrixSide + kBossGap + kStepsWidth + 20, CV_8UC3,
                 cv::Scalar(255, 255, 255));
  matrix_picture(cost).copyTo(
      canvas(cv::Rect(kBossLeft, kBossTop, kMatrixSide, kMatrixSide)));
  cv::rectangle(canvas, {kBossLeft, kBossTop, kMatrixSide, kMatrixSide}, {60, 60, 60});
  boss_text(canvas, "cost of a step (log, 4 decades), paths by evaluations",
            {kBossLeft, 18}, 0.45);
  boss_text(canvas, "to anchor", {kBossLeft + kMatrixSide / 2 - 30, height - 12});
  boss_text(canvas, "from", {8, kBossTop + kMatrixSide / 2});
  const int right = kBossLeft + kMatrixSide + kBossGap;
  boss_text(canvas, "knots in time: 0 noise, 1 data", {right, 18}, 0.45);
  const auto count = budgets.size();
  const int row = kMatrixSide / static_cast<int>(std::max<std::size_t>(count, 1));
  for (std::size_t k = 0; k < count; ++k) {
    const cv::Scalar colour = budget_colour(k, count);
    const std::vector<double>& knots = budget_times[k];
    // A step from anchor i to anchor j is the cell (i, j); between two steps the path goes
    // over the diagonal.
    const auto side = [&](double t) {
      return static_cast<int>(std::lround(kMatrixSide * place_of_time(t, times)));
    };
    for (std::size_t s = 0; s + 1 < knots.size(); ++s) {
      const cv::Point from(kBossLeft + side(knots[s]), kBossTop + side(knots[s]));
      const cv::Point cell(kBossLeft + side(knots[s + 1]), kBossTop + side(knots[s]));
      const cv::Point to(cell.x, kBossTop + side(knots[s + 1]));
      cv::line(canvas, from, cell, colour, 1, cv::LINE_AA);
      cv::line(canvas, cell, to, colour, 1, cv::LINE_AA);
      cv::circle(canvas, cell, 3, colour, cv::FILLED, cv::LINE_AA);
    }
    const int y = kBossTop + row * static_cast<int>(k) + row / 2;
    const auto x_of = [&](double t) {
      return right + static_cast<int>(std::lround(kStepsWidth * t));
    };
    boss_text(canvas, std::to_string(budgets[k].nfe), {right - 40, y + 4}, 0.45, colour);
    boss_text(canvas, budgets[k].method, {right, y - 8}, 0.34, colour);
    cv::line(canvas, {x_of(0), y}, {x_of(1), y}, {200, 200, 200});
    for (std::size_t s = 0; s < knots.size(); ++s) {
      const int x = x_of(knots[s]);
      cv::line(canvas, {x, y - 5}, {x, y + 5}, colour, 2, cv::LINE_AA);
      if (s + 1 == knots.size()) continue;
      const int width = x_of(knots[s + 1]) - x;
      if (width >= 30)
        boss_text(canvas, format("%.2f", knots[s + 1] - knots[s]),
                  {x + width / 2 - 12, y + 16}, 0.32, {110, 110, 110});
    }
  }
  return image_of(canvas);
}

Image boss_samples_picture(const std::vector<std::pair<std::string, Image>>& rows) {
  constexpr int kLabel = 150, kGap = 6;
  int width = 0, height = kGap;
  for (const auto& [label, picture] : rows) {
    width = std::max(width, picture.width);
    height += picture.height + kGap;
  }
  cv::Mat canvas(height, kLabel + width + kGap, CV_8UC3, cv::Scalar(255, 255, 255));
  int top = kGap;
  for (const auto& [label, picture] : rows) {
    const cv::Mat view(picture.height, picture.width, CV_8UC(picture.channels),
                       const_cast<std::uint8_t*>(picture.pixels.data()));
    cv::Mat rgb = view;
    if (picture.channels == 1) cv::cvtColor(view, rgb, cv::COLOR_GRAY2RGB);
    rgb.copyTo(canvas(cv::Rect(kLabel, top, picture.width, picture.height)));
    boss_text(canvas, label, {6, top + picture.height / 2 + 4});
    top += picture.height + kGap;
  }
  return image_of(canvas);
}

}  // namespace flowmap::apps
