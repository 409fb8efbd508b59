// flowmap convert: weights of other programs into our snapshots, and back.
#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/file.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/torch_file.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/adapter.h"
#include "flowmap/train/snapshot.h"

namespace fs = std::filesystem;

namespace flowmap::apps {
namespace {

struct ConvertArguments {
  NetworkFlags source;
  std::string dest, layout;
  bool half = false, overwrite = false;
};

enum class Target { snapshot, torch, folder };

Target target_of(const std::string& dest) {
  if (ends_with_ignoring_case(dest, ".safetensors")) return Target::snapshot;
  for (const char* ending : {".pt", ".pth", ".bin"})
    if (ends_with_ignoring_case(dest, ending)) return Target::torch;
  FM_CHECK_USAGE(fs::path(dest).extension().empty(), "--dest: '", dest,
                 "' is neither .safetensors (a snapshot), .pt, .pth, .bin (torch.save) nor "
                 "a folder (diffusers)");
  return Target::folder;
}

// Floating point as float16 where --half asks for it; otherwise as stored.
TensorMap in_wanted_type(TensorMap tensors, bool half) {
  if (!half) return tensors;
  for (auto& [name, tensor] : tensors) {
    if (!tensor.is_floating_point()) continue;
    const at::Tensor rounded = tensor.to(at::kHalf);
    FM_CHECK(rounded.isfinite().all().item<bool>(), "--half: '", name,
             "' holds values that float16 cannot; leave --half out");
    tensor = rounded;
  }
  return tensors;
}

struct Written {
  const WeightLayout* layout;
  TensorMap tensors;  // under its names
};

// By the layout of that name, or the first that can.
Written write_names(const std::string& wanted, const ImportedWeights& weights, bool folder) {
  std::vector<std::string> able;
  for (const WeightLayout& layout : weight_layouts()) {
    if (!layout.write || (folder && !layout.write_config)) continue;
    TensorMap tensors = layout.write(weights.spec_json, weights.tensors);
    if (tensors.empty()) continue;
    if (wanted.empty() || wanted == layout.name) return {&layout, std::move(tensors)};
    able.emplace_back(layout.name);
  }
  throw UsageError(
      (wanted.empty() ? std::string("--dest: ") : "--layout: '" + wanted + "': ") +
      "no program's names are known for this network" +
      (folder ? " in a folder of diffusers" : " there") +
      (able.empty() ? "; write a snapshot (.safetensors) instead"
                    : "; known: " + join(able, ", ")));
}

void write_torch(const fs::path& path, const TensorMap& tensors) {
  std::vector<at::Tensor> kept;
  std::vector<TorchItem> items;
  for (const auto& [name, tensor] : tensors) {
    kept.push_back(tensor.contiguous());
    items.push_back({name, file_dtype(tensor.scalar_type()), tensor.sizes().vec(),
                     {static_cast<const std::byte*>(kept.back().const_data_ptr()),
                      kept.back().nbytes()}});
  }
  write_torch_file(path, std::move(items));
}

constexpr const char* kFolderConfig = "config.json";
constexpr const char* kFolderWeights = "diffusion_pytorch_model.safetensors";

// Whole or not at all: made under a hidden name. Into a folder that is there the weights go
// first and the configuration last, which is taken away before: a folder without one is
// read by nobody.
void write_folder(const fs::path& folder, const TensorMap& tensors,
                  const std::string& config, bool overwrite) {
  FM_CHECK_USAGE(!fs::is_regular_file(folder), "--dest: ", folder.string(), " is a file");
  for (const char* name : {kFolderConfig, kFolderWeights})
    FM_CHECK_USAGE(overwrite || !fs::exists(folder / name), "--dest: ",
                   (folder / name).string(),
                   " is there already; pass --overwrite or choose another name");
  const fs::path clean = fs::absolute(folder).lexically_normal();
  const fs::path name = clean.has_filename() ? clean : clean.parent_path();
  const fs::path partial =
      name.parent_path() / ("." + name.filename().string() + ".partial");
  fs::remove_all(partial);
  make_directories(partial);
  save_tensors(partial / kFolderWeights, tensors, {{"format", "pt"}});
  write_file_atomic(partial / kFolderConfig, config);
  if (!fs::exists(name)) {
    fs::rename(partial, name);
    return;
  }
  fs::remove(name / kFolderConfig);
  fs::rename(partial / kFolderWeights, name / kFolderWeights);
  fs::rename(partial / kFolderConfig, name / kFolderConfig);
  fs::remove_all(partial);
}

}  // namespace

int run_convert(std::span<const std::string> words) {
  ConvertArguments a;
  CLI::App app(
      "Weights of other programs into a snapshot of ours, and back. Nothing in a file is\n"
      "executed. By the ending of --dest: .safetensors a snapshot; .pt, .pth, .bin a\n"
      "torch.save file under the names of EDM, EDM2, DiT; a folder as diffusers has it.",
      "flowmap convert");
  add_network_flags(app, a.source, "--source");
  add_adapter_flag(app, a.source);
  app.add_flag("--force", a.source.force, "take an --adapter of another network");
  app.add_option("--dest", a.dest, "file or folder to write")
      ->required()
      ->check(not_empty());
  app.add_flag("--half", a.half, "floating point as float16; default: as stored");
  app.add_option("--layout", a.layout,
                 "whose names to write: edm, dit, diffusers_unet, ... (default: the first "
                 "that fits)");
  app.add_flag("--overwrite", a.overwrite, "replace --dest if it is there");
  app.footer("\nExample: flowmap convert --source edm-cifar10-32x32-cond-vp.pkl "
             "--dest edm.safetensors");
  if (!parse_arguments(app, words)) return 0;
  const Target target = target_of(a.dest);
  FM_CHECK_USAGE(a.layout.empty() || target != Target::snapshot,
                 "--layout: a snapshot has names of its own; leave it out, or give --dest a "
                 ".pt file or a folder");
  const fs::path source_path(a.source.network), dest(a.dest);
  require_network(a.source, "--source");
  const LoadOptions options = load_options(a.source);
  const WeightSource source = open_weights(source_path, options.key);
  ImportedWeights weights = import_weights(source, options.hints);
  // Builds the network: what does not fit is refused before anything is written.
  const auto model = model_of_weights(weights.spec_json, weights.tensors, source_path);
  if (!a.source.adapter.empty()) {
    require_file(a.source.adapter, "--adapter");
    Snapshot merged;
    merged.model = model;
    merged.metadata = weights.metadata;
    under_flag("--adapter", [&] {
      const auto parameters = model->named_parameters();
      for (const std::string& name :
           merge_adapter(a.source.adapter, merged, a.source.force))
        weights.tensors[name] = parameters[name];
    });
    weights.metadata = merged.metadata;
  }
  weights.tensors = in_wanted_type(std::move(weights.tensors), a.half);

  if (target == Target::snapshot) {
    prepare_output(dest, a.overwrite, "--dest");
    save_tensors(dest, weights.tensors,
                 snapshot_metadata(weights.spec_json, weights.metadata));
  } else {
    const Written written = write_names(a.layout, weights, target == Target::folder);
    if (target == Target::torch) {
      prepare_output(dest, a.overwrite, "--dest");
      write_torch(dest, written.tensors);
    } else {
      write_folder(dest, written.tensors, written.layout->write_config(weights.spec_json),
                   a.overwrite);
    }
  }
  for (const std::string& what : weights.assumed) log_line("assumed: " + what);
  log_line(format("%s (%s%s%s): %s, %lld parameters in %zu tensors -> %s",
                  source_path.string().c_str(), source.format.c_str(),
                  source.key.empty() ? "" : ", ", source.key.c_str(),
                  weights.layout.c_str(),
                  static_cast<long long>(parameter_count(*model)), weights.tensors.size(),
                  dest.string().c_str()));
  return 0;
}

}  // namespace flowmap::apps
