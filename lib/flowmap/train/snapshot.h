// Snapshots: safetensors that carry architecture, method, EMA profile and images seen.
// Sampling needs nothing else.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/model.h"
#include "flowmap/weights/layout.h"

namespace flowmap {

// How a method says that its network is sampled (Task::snapshot_info).
struct MethodDefaults {
  std::string sampler;        // "" if not stated
  int64_t steps = 0;          // 0 if not stated
  std::vector<double> times;  // knots in place of as many equal steps; {} if not stated
  double guidance = 1;        // the scale, of models that take it as an input
};
// Of the JSON text of a method's snapshot_info; "" gives none. `where` names it in errors.
// Throws DataError where it is no object, or times and guidance are no numbers.
MethodDefaults method_defaults(const std::string& info, const std::string& where);

// Metadata keys (all text): "format" = "pt"; "flowmap" = format version "1";
// "spec" = make_model's JSON, resolved; "method" = the method's snapshot_info JSON;
// "ema" = profile, e.g. "halflife=500000,rampup=0.05" or "raw"; "images_seen";
// "dataset" = name; "classes" where labelled; "scores" = JSON object name -> value.
// No wall-clock time: equal runs give equal bytes.
struct Snapshot {
  std::shared_ptr<Model> model;  // evaluation mode, no gradients
  std::string spec_json;
  std::map<std::string, std::string> metadata;
  MethodDefaults defaults;  // out of metadata "method"
  std::vector<std::string> assumed;  // what the file did not say (ImportedWeights)
  std::string layout;  // whose names the file had: "flowmap", "edm", ... (weights/layout.h)
};

// How a file of weights is to be read: open_weights' key and import_weights' hints.
struct LoadOptions {
  std::string key;
  ImportHints hints;
};

// What save_snapshot adds to `metadata`: "format", "flowmap", "spec".
std::map<std::string, std::string> snapshot_metadata(
    const std::string& spec_json, std::map<std::string, std::string> metadata);
// Tensors are named as in the model's state dict (EDM's names under "model."). Atomic.
void save_snapshot(const std::filesystem::path& path, const Model& model,
                   const std::string& spec_json,
                   const std::map<std::string, std::string>& metadata);
// Reads a snapshot, or weights of any other program that weights/source.h opens and
// weights/layout.h knows; nothing in the file is executed. Weights come as float32; those
// stored so stay in the mapped file until they are written to. Throws DataError /
// UsageError: not weights; missing, unexpected or mis-shaped tensors are listed. Refuses
// weights that are not finite, naming the tensor.
Snapshot load_snapshot(const std::filesystem::path& path, const LoadOptions& options = {});
// What load_weights did; counts are of tensors.
struct LoadReport {
  int64_t copied = 0, in_file = 0, in_model = 0;  // parameters and buffers
  int64_t parameters_copied = 0, parameters = 0;  // of the model, without buffers
  std::string spec_json;  // of the file's model
};

// Loads tensors only, into a model that is there; names and shapes must agree unless
// `partial`, which copies what fits. Returns the number copied. Of the same files as
// load_snapshot; `report` may be null.
int64_t load_weights(const std::filesystem::path& path, Model& model, bool partial,
                     const LoadOptions& options = {}, LoadReport* report = nullptr);
// A model of the specification with the given weights, by the names of its state dict;
// `path` is for errors, which are load_snapshot's.
std::shared_ptr<Model> model_of_weights(const std::string& spec_json,
                                        const TensorMap& tensors,
                                        const std::filesystem::path& path);

// Adds a score to the metadata "scores" of a snapshot, which is rewritten atomically:
// {"NAME HOW": {"value": v, "num_images": n}}; HOW ("1 step") may be empty. Throws
// DataError where the file is no snapshot.
void record_score(const std::filesystem::path& path, const std::string& name,
                  double value, int64_t num_images, const std::string& how);

}  // namespace flowmap
