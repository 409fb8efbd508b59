// A name for a model's weights that does not depend on the file they came in.
#pragma once

#include <string>

#include "flowmap/model.h"

namespace flowmap {

// SHA-256 of a model's parameters and buffers, by names, shapes and float32 values: the
// same for every file that holds these weights, whatever else stands in it.
std::string model_checksum(const Model& model);

}  // namespace flowmap
