// curves.png: what happened in a run, drawn from its stats.jsonl.
#pragma once

#include <filesystem>

namespace flowmap {

// Panels: losses (every "Loss/*" key, log scale), other method figures, gradient norm,
// learning rate, images/s, each over thousands of images. Lines that are not JSON are
// passed over. Writes nothing if there are fewer than two status lines.
void draw_curves(const std::filesystem::path& stats_jsonl,
                 const std::filesystem::path& png);

}  // namespace flowmap
