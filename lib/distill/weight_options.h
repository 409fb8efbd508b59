// How the weights that a configuration names are to be read, where the file does not say
// enough: what --key, --arch and --arch-options are on the command line.
#pragma once

#include <functional>
#include <string>

#include "flowmap/base/config.h"
#include "flowmap/train/snapshot.h"

namespace flowmap::distill {

struct WeightOptions {
  std::string key;    // "method.teacher_options"
  std::string where;  // "FILE:LINE" of it; "" if the configuration has none
  LoadOptions load;
};

// The object at the dotted `key` of the whole configuration, all of it optional:
//   {"key": "ema", "arch": "sit", "options": {"network": {"num_heads": 4}}}
// Throws UsageError.
WeightOptions read_weight_options(const Config& config, const std::string& key);

// Calls `load` with the options. A UsageError or DataError that comes of them, or that asks
// for what they can say, names their keys instead of the command line's flags.
void load_with(const WeightOptions& options,
               const std::function<void(const LoadOptions&)>& load);

}  // namespace flowmap::distill
