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
// First dimension of a tensor.
int64_t weight_rows(const WeightSource& source, const std::string& name);
// Number of i = 0, 1, ... for which a name starts with prefix + i + ".".
int64_t count_numbered(const WeightSource& source, const std::string& prefix);
// Tensors below `prefix`, renamed to `replacement` + rest.
TensorMap renamed_below(const TensorMap& tensors, std::string_view prefix,
                        std::string_view replacement);
// The specification with hints.options merged over it. Throws UsageError where those are no
// JSON object.
std::string with_hints(const std::string& spec_json, const ImportHints& hints);

}  // namespace flowmap
