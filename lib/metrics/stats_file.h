// Statistics of features in npz: mu, sigma, and what they were made of.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "metrics/metric.h"

namespace flowmap::metrics {

// Where features came from; texts the file does not have are "".
struct FeatureSource {
  std::string detector;    // "fmnist64"
  std::string checksum;    // SHA-256 of the detector's weights
  std::string mode;        // how images were resized; "native": not at all
  std::string resolution;  // "28x28"; "" for points
};

struct Statistics {
  // mean and scatter. Files without num_images get a count of 2, for which the scatter is
  // the covariance; `num_images` says what is known.
  FeatureSet set;
  std::optional<int64_t> num_images;
  FeatureSource source;
};

// Writes mu [d], sigma [d, d] (N - 1) float64, num_images int64, and texts detector,
// detector_sha256, mode, resolution, tool. numpy reads it without pickles. Atomic.
void write_statistics(const std::filesystem::path& path, const FeatureSet& set,
                      const FeatureSource& source);

// Reads any npz with mu and sigma (EDM, pytorch-fid, clean-fid, guided-diffusion); other
// arrays are ignored. Throws DataError: no archive, a key missing, shapes that disagree,
// values that are not finite, sigma not symmetric; UsageError on a pickle.
Statistics read_statistics(const std::filesystem::path& path);

// True if the npz has mu and sigma; false for npz of samples. Throws on broken files.
bool is_statistics_file(const std::filesystem::path& path);

// Refuses (UsageError) to compare features of another dimension; and, unless `force`,
// statistics of another detector, checksum, mode or resolution. Returns warnings (one
// line each) about what the file does not say, or what `force` let through.
std::vector<std::string> check_comparable(const Statistics& statistics,
                                          const std::string& path,
                                          const FeatureSource& ours, int64_t dimensions,
                                          bool force);

}  // namespace flowmap::metrics
