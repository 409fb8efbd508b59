// Statistics of features in files: our npz, and those of the programs that people compare
// with (docs/formats.md: statistics).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "metrics/metric.h"

namespace flowmap::metrics {

// Where features came from; texts the file does not have are "".
struct FeatureSource {
  std::string detector;    // "fmnist64"
  std::string checksum;    // SHA-256 of the detector's weights
  std::string mode;        // how images were resized; "native": not at all
  std::string resolution;  // "28x28", "mixed"; "" for points
};

struct LayerStatistics {
  std::string layer;     // "768"; "" where the file does not say
  std::string detector;  // where the file has several (EDM2); "": the source's
  // Mean, scatter, and the features where the file has them. Files that do not say how
  // many images they are of get a count of 2, for which the scatter is the covariance.
  FeatureSet set;
};

struct Statistics {
  std::vector<LayerStatistics> layers;
  std::optional<int64_t> num_images;
  FeatureSource source;
  std::string writer;  // "clean-fid", "EDM2", "guided-diffusion", "flowmap"; "" unknown
};

// Writes mu [d], sigma [d, d] (N - 1) float64 of the first layer, mu_LAYER and
// sigma_LAYER of the others, features[_LAYER] float32 [N, d] of sets that keep them,
// num_images int64, and texts detector, detector_sha256, mode, resolution, layer, tool.
// numpy reads it without pickles. Atomic; equal content gives equal bytes.
void write_statistics(const std::filesystem::path& path,
                      const std::vector<LayerStatistics>& layers,
                      const FeatureSource& source);
// Features alone: features[_LAYER] and the same texts.
void write_features(const std::filesystem::path& path,
                    const std::vector<LayerStatistics>& layers,
                    const FeatureSource& source);

// Reads npz with mu and sigma (EDM, pytorch-fid, guided-diffusion with mu_s and sigma_s
// for sFID, clean-fid: mode, resolution and model out of the file's name), clean-fid's
// feats, our features, and EDM2's pickles, which are read as data and never run. Other
// arrays are ignored. Throws DataError: no archive, a key missing, shapes that disagree,
// values that are not finite, sigma not symmetric.
Statistics read_statistics(const std::filesystem::path& path);

// True for npz with mu, sigma, feats or features, and for pickles; false for npz of
// samples and other files. Throws on broken archives.
bool is_statistics_file(const std::filesystem::path& path);

// The statistics of layer `layer` of our detector; where the file names no layers, those
// of the same dimension. Refuses (UsageError) features of another dimension; and, unless
// `force`, statistics of another detector, checksum, mode or resolution, and of fewer
// images than the `generated` (0: not looked at). Adds warnings (one line each) about what
// the file does not say, or what `force` let through.
const LayerStatistics& comparable_layer(const Statistics& statistics,
                                        const std::string& path,
                                        const FeatureSource& ours,
                                        const FeatureLayer& layer, int64_t generated,
                                        bool force, std::vector<std::string>& warnings);

}  // namespace flowmap::metrics
