// EDM, EDM2 and what descends from them (SiD, ...): their names are ours.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/weights/edm_names.h"
#include "flowmap/weights/json_spec.h"

namespace flowmap {
namespace {

using nlohmann::json;

// Where the U-Net hangs in EDM's and EDM2's preconditioners, and nowhere (bare networks).
constexpr std::array<const char*, 3> kNetworkPrefixes = {"model.", "unet.", ""};

const char* prefix_of(const WeightSource& source) {
  for (const char* prefix : kNetworkPrefixes) {
    const std::string head = std::string(prefix) + "enc.";
    const auto next = source.tensors.lower_bound(head);
    if (next != source.tensors.end() && next->first.starts_with(head)) return prefix;
  }
  return nullptr;
}

bool is_edm(const WeightSource& source) { return prefix_of(source) != nullptr; }

// Keys of the constructors that say something of the preconditioning, not the network.
bool belongs_to_preconditioning(const std::string& key) {
  static const std::vector<std::string> keys = {
      "sigma_min", "sigma_max", "sigma_data", "beta_d",   "beta_min", "M",
      "epsilon_t", "C_1",       "C_2",        "logvar_channels"};
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

// EDM writes 0 and infinity for "no limit"; our defaults are what it trains and samples.
bool is_no_limit(const std::string& key, const json& value) {
  return (key == "sigma_min" || key == "sigma_max") && value.is_number() &&
         (value.get<double>() <= 0 || value.get<double>() > 1e30);
}

struct ClassOfEdm {
  const char* name;
  const char* preconditioning;
};
constexpr ClassOfEdm kPreconditioners[] = {
    {"EDMPrecond", "edm"}, {"VPPrecond", "vp"},   {"VEPrecond", "ve"},
    {"iDDPMPrecond", "iddpm"}, {"Precond", "edm2"}};

// The specification that constructor arguments mean.
json spec_from_arguments(const WeightSource& source, const json& config) {
  const std::string type = config.value("class", "");
  const std::string bare = type.substr(type.rfind('.') + 1);
  json spec = {{"network", json::object()}, {"preconditioning", json::object()}};
  for (const ClassOfEdm& c : kPreconditioners)
    if (bare == c.name) spec["preconditioning"]["type"] = c.preconditioning;
  const json arguments = config.value("kwargs", json::object());
  const std::string inner = arguments.value(
      "model_type", bare == "EDMPrecond" || bare == "iDDPMPrecond" ? "DhariwalUNet"
                                                                   : "SongUNet");
  const bool is_edm2 = bare == "Precond";
  if (is_edm2)
    spec["network"]["type"] = "edm2";
  else if (inner == "SongUNet")
    spec["network"]["type"] = "ddpmpp";
  else if (inner == "DhariwalUNet")
    spec["network"]["type"] = "adm";
  if (!spec["preconditioning"].contains("type") || !spec["network"].contains("type"))
    throw DataError(source.path.string(), {},
                    "a network of class EDMPrecond, VPPrecond, VEPrecond, iDDPMPrecond or "
                    "Precond (EDM2) around SongUNet or DhariwalUNet",
                    "class " + type + " around " + inner);
  const int64_t size = arguments.value("img_resolution", int64_t{0});
  const int64_t channels = arguments.value("img_channels", int64_t{3});
  spec["sample_shape"] = {channels, size, size};
  spec["label_dim"] = arguments.value("label_dim", int64_t{0});
  for (const auto& [key, value] : arguments.items()) {
    if (key == "img_resolution" || key == "img_channels" || key == "model_type" ||
        key == "label_dim" || key == "use_fp16" || value.is_null())
      continue;
    if (is_no_limit(key, value)) continue;
    spec[belongs_to_preconditioning(key) ? "preconditioning" : "network"][key] = value;
  }
  return spec;
}

json spec_from_shapes(const WeightSource& source, const std::string& prefix,
                      std::vector<std::string>& assumed) {
  json spec = json::parse(unet_options_from_shapes(source, prefix));
  const json sample = spec["sample_shape"];
  const auto out = spec["out_channels"].get<int64_t>();
  spec.erase("out_channels");
  json& preconditioning = spec["preconditioning"];
  if (spec["network"]["type"] == "edm2") {
    preconditioning["type"] = "edm2";
    if (has_weight(source, "logvar_fourier.freqs"))
      preconditioning["logvar_channels"] = weight_rows(source, "logvar_fourier.freqs");
  } else {
    // iDDPM's networks predict the variance as well.
    const std::string type = out == 2 * sample[0].get<int64_t>() ? "iddpm" : "edm";
    preconditioning["type"] = type;
    assumed.push_back("a denoiser preconditioned as " + type +
                      " (else: --arch-options preconditioning.type=vp, ve, flow, ...)");
  }
  return spec;
}

ImportedWeights read_edm(const WeightSource& source, const ImportHints& hints) {
  const char* prefix = prefix_of(source);
  if (!prefix)
    throw DataError(source.path.string(), {}, "tensors named as EDM's ('model.enc...')",
                    "other names");
  const json config = json::parse(source.config_json.empty() ? "{}" : source.config_json);
  ImportedWeights result;
  const json found = config.contains("class")
                         ? spec_from_arguments(source, config)
                         : spec_from_shapes(source, prefix, result.assumed);
  if (hints.options.find("preconditioning") != std::string::npos) result.assumed.clear();
  const json spec = json::parse(with_hints(found.dump(), hints));
  FM_CHECK_USAGE(spec["network"].value("channels_per_head", 1) > 0, source.path.string(),
                 ": its attention is narrower than 64 channels, so the width of a head "
                 "must be told: --arch-options network.channels_per_head=N");
  result.spec_json = spec.dump();
  result.tensors = renamed_below(source.tensors, prefix, "model.");
  for (const char* beside : {"logvar_fourier.", "logvar_linear."})
    result.tensors.merge(renamed_below(source.tensors, beside, beside));
  if (has_weight(source, "u")) result.tensors["u"] = weight_at(source, "u");  // iDDPM
  return result;
}

TensorMap write_edm(const std::string& spec_json, const TensorMap& tensors) {
  const json spec = json::parse(spec_json);
  const std::string type = spec["network"].value("type", "");
  // EDM has no class for velocities and flow maps: read back they would be denoisers.
  const std::string around = spec["preconditioning"].value("type", "flow");
  if (around == "flow" || around == "ddpm") return {};
  if (type == "ddpmpp" || type == "ncsnpp" || type == "adm") return tensors;
  if (type != "edm2") return {};
  TensorMap result = renamed_below(tensors, "model.", "unet.");
  result.merge(renamed_below(tensors, "logvar_", "logvar_"));
  return result;
}

}  // namespace

extern const WeightLayout kEdmLayout;
const WeightLayout kEdmLayout = {
    "edm", "EDM, EDM2, SiD: pickles with constructor arguments, or bare weights",
    is_edm, read_edm, write_edm, nullptr};

}  // namespace flowmap
