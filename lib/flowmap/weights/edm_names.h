// What the shapes and names of an EDM U-Net say of its options.
#pragma once

#include <string>

#include "flowmap/weights/source.h"

namespace flowmap {

// Options of a SongUNet, a DhariwalUNet or EDM2's U-Net whose tensors are called
// `prefix` + name, as JSON: {"network": {...}, "sample_shape": [C, H, W], "label_dim": n,
// "out_channels": n}. What shapes cannot tell (heads, dropout, skip scale) is left to the
// network's defaults. Throws DataError where the names do not form such a network.
std::string unet_options_from_shapes(const WeightSource& source,
                                     const std::string& prefix);

}  // namespace flowmap
