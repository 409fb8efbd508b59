// EDM's dataset.json: {"labels": [["00000/img00000000.png", 6], ...]} or null. Whole
// numbers are classes, lists are label vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "flowmap/data/picture_source.h"

namespace flowmap {

// One a picture, in their order; empty where the file says null.
struct EdmLabels {
  std::vector<PictureLabel> labels;
  std::int64_t missing = 0;  // names in the file that are no pictures
  std::string first_missing;
};

// `name(k)` is the name of picture k of `count` as the file writes it; `where` stands for
// the path in errors. Throws DataError: no JSON of that form, a picture without a label,
// classes outside 0 to 2^20 - 1, lists of several lengths, both kinds at once.
EdmLabels parse_edm_labels(std::span<const std::byte> bytes, const std::string& where,
                           std::size_t count,
                           const std::function<std::string(std::size_t)>& name);

// The file's text as EDM's tool writes it. No labels: null.
std::string format_edm_labels(const std::vector<std::string>& names,
                              const std::vector<PictureLabel>& labels);

}  // namespace flowmap
