#include "flowmap/train/stats.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "flowmap/base/file.h"
#include "flowmap/base/text.h"

namespace flowmap {

double Stats::Moments::mean() const {
  return num ? sum / static_cast<double>(num) : std::numeric_limits<double>::quiet_NaN();
}

double Stats::Moments::std() const {
  if (num == 0) return std::numeric_limits<double>::quiet_NaN();
  const double m = mean();
  return std::sqrt(std::max(sum_of_squares / static_cast<double>(num) - m * m, 0.0));
}

void Stats::add(const std::string& name, double value) {
  Moments& m = moments_[name];
  m.num += 1;
  m.sum += value;
  m.sum_of_squares += value * value;
}

void Stats::add(const std::string& name, const at::Tensor& values) {
  const at::Tensor v = values.detach().to(at::kCPU, at::kDouble).reshape({-1});
  if (v.numel() == 0) return;
  Moments& m = moments_[name];
  m.num += v.numel();
  m.sum += v.sum().item<double>();
  m.sum_of_squares += v.square().sum().item<double>();
}

double Stats::mean(const std::string& name) const {
  const auto found = moments_.find(name);
  return found == moments_.end() ? std::numeric_limits<double>::quiet_NaN()
                                 : found->second.mean();
}

std::string Stats::json_line(double timestamp) const {
  const auto number = [](double value) {
    return std::isfinite(value) ? format("%.9g", value) : std::string("null");
  };
  std::string line = "{";
  for (const auto& [name, m] : moments_)
    line += "\"" + name + "\": {\"num\": " + std::to_string(m.num) +
            ", \"mean\": " + number(m.mean()) + ", \"std\": " + number(m.std()) + "}, ";
  return line + "\"timestamp\": " + format("%.3f", timestamp) + "}";
}

std::vector<StatsRow> read_stats(const std::filesystem::path& path) {
  std::vector<StatsRow> rows;
  if (!std::filesystem::exists(path)) return rows;
  for (std::string& line : split(read_file(path), '\n')) {
    const auto row = nlohmann::json::parse(line, nullptr, false);
    if (!row.is_object() || !row.contains("Progress/kimg")) continue;
    const auto& kimg = row["Progress/kimg"]["mean"];
    if (!kimg.is_number()) continue;
    StatsRow& kept = rows.emplace_back();
    kept.kimg = kimg.get<double>();
    for (const auto& [name, moments] : row.items())
      if (moments.is_object() && moments.contains("mean") && moments["mean"].is_number())
        kept.means[name] = moments["mean"].get<double>();
    kept.line = std::move(line);
  }
  return rows;
}

void trim_stats(const std::filesystem::path& path, int64_t images) {
  if (!std::filesystem::exists(path)) return;
  std::string kept;
  // A line at the very clock of the state was written before it.
  for (const StatsRow& row : read_stats(path))
    if (row.kimg * 1000 <= static_cast<double>(images) + 0.5 && images > 0)
      kept += row.line + "\n";
  if (kept != read_file(path)) write_file_atomic(path, kept);
}

}  // namespace flowmap
