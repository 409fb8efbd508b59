// Snapshots of this program: the specification stands in the metadata.
#include "flowmap/weights/json_spec.h"

namespace flowmap {
namespace {

bool is_own(const WeightSource& source) {
  return source.metadata.contains("flowmap") && source.metadata.contains("spec");
}

ImportedWeights read_own(const WeightSource& source, const ImportHints& hints) {
  ImportedWeights result;
  result.spec_json = source.metadata.at("spec");
  if (hints.options != "{}") result.spec_json = with_hints(result.spec_json, hints);
  result.tensors = source.tensors;
  result.metadata = source.metadata;
  return result;
}

}  // namespace

extern const WeightLayout kOwnLayout;
const WeightLayout kOwnLayout = {"flowmap", "snapshots of this program", is_own, read_own,
                                 nullptr, nullptr};

}  // namespace flowmap
