// Running figures between two status lines, in EDM's form {num, mean, std}.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace flowmap {

class Stats {
 public:
  struct Moments {
    int64_t num = 0;
    double sum = 0, sum_of_squares = 0;
    double mean() const;
    double std() const;  // population
  };

  void add(const std::string& name, double value);
  // Every element counts.
  void add(const std::string& name, const at::Tensor& values);
  const std::map<std::string, Moments>& moments() const { return moments_; }
  double mean(const std::string& name) const;  // NaN if nothing was added
  // One JSON object on one line; "timestamp" in seconds. Values that are not finite are
  // written as null, since JSON has no word for them.
  std::string json_line(double timestamp) const;
  void clear() { moments_.clear(); }

 private:
  std::map<std::string, Moments> moments_;
};

// Drops the lines of a stats.jsonl that lie beyond `images` seen: a run that continues
// from there writes them again.
void trim_stats(const std::filesystem::path& path, int64_t images);

// A whole line of stats.jsonl: thousands of images, and the mean of each value.
struct StatsRow {
  double kimg = 0;
  std::map<std::string, double> means;
  std::string line;
};
// The lines in order; what was cut short or says no clock is passed over. Empty where there
// is no such file.
std::vector<StatsRow> read_stats(const std::filesystem::path& path);

}  // namespace flowmap
