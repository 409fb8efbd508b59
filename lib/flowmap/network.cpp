#include "flowmap/network.h"

#include <ATen/ATen.h>

#include "flowmap/nn/init.h"

namespace flowmap {

Condition Condition::select(const at::Tensor& rows) const {
  const auto pick = [&](const at::Tensor& all) {
    return all.defined() ? all.index_select(0, rows.to(all.device())) : at::Tensor();
  };
  return {pick(class_labels), pick(augment_labels), pick(guidance)};
}

std::shared_ptr<Network> make_network(const Config& options, const NetworkShape& shape) {
  auto network = build_network(options, shape);
  initialise_weights(*network, 0);
  return network;
}

}  // namespace flowmap
