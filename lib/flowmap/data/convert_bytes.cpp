// Between bytes of images and the floats that networks see (EDM's rules).
#include <ATen/ATen.h>

#include "flowmap/data/dataset.h"

namespace flowmap {

at::Tensor samples_to_float(const at::Tensor& samples) {
  if (samples.is_floating_point()) return samples;
  return samples.to(at::kFloat) / 127.5 - 1;
}

at::Tensor images_to_bytes(const at::Tensor& images) {
  // +128 and truncation round to the nearest level, ties up.
  return (images * 127.5 + 128).clamp(0, 255).to(at::kByte);
}

}  // namespace flowmap
