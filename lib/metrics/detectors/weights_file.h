// Where a detector's weights are.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace flowmap::metrics {

// A detector's wishes. `refuses` says why a file cannot be this detector's ("it is ..."),
// "" where it may be. FLOWMAP_DETECTOR names one file for all detectors: another's file
// there is passed over, while one given as option is an error.
struct WeightsSearch {
  std::string detector;                        // "inception"
  std::string given;                           // option "path"; "" = look for it
  std::vector<std::filesystem::path> places;   // after FLOWMAP_DETECTOR, in this order
  std::string remedy;                          // how to come by the weights
  std::string (*refuses)(const std::filesystem::path& file) = nullptr;
};
// Nothing is ever downloaded. Throws UsageError: a given file that is not there or
// refused, FLOWMAP_DETECTOR that is not there, or nothing found, with what was looked
// for.
std::filesystem::path find_weights_file(const WeightsSearch& search);

// Whether the file is one of our snapshots (safetensors with metadata "flowmap").
bool is_snapshot_file(const std::filesystem::path& path);

}  // namespace flowmap::metrics
