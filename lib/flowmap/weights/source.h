// A file of weights, whatever program wrote it: named tensors, and what the file says of
// the network they belong to. Nothing in a file is ever executed.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace flowmap {

using TensorMap = std::map<std::string, at::Tensor>;

struct WeightSource {
  std::filesystem::path path;
  // "safetensors", "torch.save", "pickle", "diffusers"
  std::string format;
  // As stored, on the CPU; views of the mapped file where the format allows (writing to
  // them changes memory, not the file). Prefixes of wrappers ("module.", "_orig_mod.") are gone.
  TensorMap tensors;
  std::map<std::string, std::string> metadata;  // of safetensors
  // What the file or its folder says of the network, a JSON object or "":
  //   EDM, EDM2: {"class": "EDMPrecond", "kwargs": {constructor arguments}}
  //   diffusers: its config.json, scheduler_config.json under "_scheduler" where there is one
  std::string config_json;
  // Where in the file the tensors were found: "ema", "model.net"; "" at the top.
  std::string key;
  // What else could have been taken.
  std::vector<std::string> other_keys;
};

// Opens .safetensors (also sharded: FILE.index.json, or a folder with one), torch.save
// files (.pt, .pth, .bin; zip and legacy), pickles of EDM, EDM2 and their descendants
// (.pkl), and folders of diffusers (config.json beside the weights); by content, not by
// name. `key` picks one of several networks ("ema", "model.net"); by default an average
// ("ema", "G_ema", "ema_model", ...) is preferred, then "model", "net", "state_dict".
// Throws DataError; UsageError where `key` is not there, listing what is.
WeightSource open_weights(const std::filesystem::path& path, const std::string& key = "");

// open_weights for each kind of file (its own .cpp).
WeightSource open_safetensors(const std::filesystem::path& path);
WeightSource open_torch_or_pickle(const std::filesystem::path& path,
                                  const std::string& key);
WeightSource open_diffusers_folder(const std::filesystem::path& folder);

}  // namespace flowmap
