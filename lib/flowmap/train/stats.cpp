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

void trim_stats(const std::filesystem::path& path, int64_t images) {
  if (!std::filesystem::exists(path)) return;
  const std::string before = read_file(path);
  std::string kept;
  for (const std::string& line : split(before, '\n')) {
    const auto row = nlohmann::json::parse(line, nullptr, false);
    if (!row.is_object() || !row.contains("Progress/kimg")) continue;
    const auto& kimg = row["Progress/kimg"]["mean"];
    if (!kimg.is_number()) continue;
    // A line at the very clock of the state was written before it.
    if (kimg.get<double>() * 1000 <= static_cast<double>(images) + 0.5 && images > 0)
      kept += line + "\n";
  }
  if (kept != before) write_file_atomic(path, kept);
}

}  // namespace flowmap
