// Small helpers of the layouts, on JSON texts and tensor maps.
#pragma once

#include <string>
#include <string_view>

#include "flowmap/base/dtype.h"
#include "flowmap/weights/layout.h"

namespace flowmap {

// The tensor, or DataError naming the file.
const at::Tensor& weight_at(const WeightSource& source, const std::string& name);
bool has_weight(const WeightSource& source, const std::string& name);
// Size of a tensor's dimension, at least 1. Throws DataError where it is 0 or not there.
int64_t weight_size(const WeightSource& source, const std::string& name, int64_t dim);
inline int64_t weight_rows(const WeightSource& source, const std::string& name) {
  return weight_size(source, name, 0);
}
// Number of i = 0, 1, ... for which a name starts with prefix + i + ".".
int64_t count_numbered(const WeightSource& source, const std::string& prefix);
// Tensors below `prefix`, renamed to `replacement` + rest.
TensorMap renamed_below(const TensorMap& tensors, std::string_view prefix,
                        std::string_view replacement);
// The specification with hints.options merged over it. Throws UsageError where those are no
// JSON object.
std::string with_hints(const std::string& spec_json, const ImportHints& hints);
// A JSON object as normalised text (keys sorted, no spaces), safe to parse again. `where`
// names its place for errors (a file, "FILE: metadata KEY"). Throws DataError for another
// content, and for more than 64 levels of objects and lists.
std::string checked_json_object(const std::string& text, const std::string& where);

}  // namespace flowmap
