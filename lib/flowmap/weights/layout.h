// Whose names are these? A layout knows how one program names the weights of its networks,
// and turns them into ours: the specification of a model and its tensors.
#pragma once

#include <string>
#include <vector>

#include "flowmap/weights/source.h"

namespace flowmap {

// What the user adds where a file does not say enough.
struct ImportHints {
  // Name of a layout or of a network ("sit", "dit"); "" to find out.
  std::string arch;
  // JSON object merged over the specification found: {"network": {"num_heads": 4},
  // "preconditioning": {"type": "vp"}, "sample_shape": [3, 64, 64]}.
  std::string options = "{}";
};

struct ImportedWeights {
  std::string layout;     // its name
  std::string spec_json;  // for make_model
  TensorMap tensors;      // by the names of that model's state dict
  // What neither the file nor the hints said, for the user to read.
  std::vector<std::string> assumed;
  // For the metadata of a snapshot: "method" (default sampler and steps), "ema", ...
  std::map<std::string, std::string> metadata;
};

// A row of the table: one file, one line.
struct WeightLayout {
  const char* name;
  const char* summary;
  // Whether the tensors' names, or the configuration, are this program's.
  bool (*recognises)(const WeightSource& source);
  // Throws DataError where shapes contradict each other, UsageError where a hint is
  // needed (naming it).
  ImportedWeights (*read)(const WeightSource& source, const ImportHints& hints);
  // Our names back into this program's, or nullptr where it has no class for them. `spec`
  // as in ImportedWeights. Returns an empty map where the network is not one of its.
  TensorMap (*write)(const std::string& spec_json, const TensorMap& tensors);
  // config.json for a folder, or nullptr.
  std::string (*write_config)(const std::string& spec_json);
};
const std::vector<WeightLayout>& weight_layouts();

// By hints.arch, or by the first layout that recognises the source. Throws DataError
// naming the layouts where none does.
ImportedWeights import_weights(const WeightSource& source, const ImportHints& hints = {});

}  // namespace flowmap
