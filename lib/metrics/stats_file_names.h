// What a statistics file's own name says.
#pragma once

#include <filesystem>
#include <string>

#include "metrics/stats_file.h"

namespace flowmap::metrics {

// clean-fid's names: {name}_{mode}[_{model}]_{split}_{res}[_kid].npz, lower case.
// Returns whether it is one; mode, resolution ("na": not stated) and, where another model
// than Inception is named, detector go into `source`.
bool read_clean_fid_name(const std::filesystem::path& path, FeatureSource& source);

}  // namespace flowmap::metrics
