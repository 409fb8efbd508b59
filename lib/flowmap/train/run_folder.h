// Where a run keeps its files (docs/formats.md: run folder).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace flowmap {

// OUTDIR/NNNNN-<description>, one past the highest number there (EDM). Creates it.
std::filesystem::path new_run_folder(const std::filesystem::path& outdir,
                                     const std::string& description);
// The newest complete training state in a run folder, if any: the largest count of
// images among folders "training-state-*".
std::optional<std::filesystem::path> latest_state(const std::filesystem::path& run);
// RUN itself, or the run folder a "training-state-*" folder is in. Throws UsageError if
// there is no training state.
std::filesystem::path run_of(const std::filesystem::path& given);

std::string kimg_text(int64_t images);  // "000195": thousands, rounded down

}  // namespace flowmap
