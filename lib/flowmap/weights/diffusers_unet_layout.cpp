// diffusers' UNet2DModel: its names are those of network.type=unet2d.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/weights/json_spec.h"

namespace flowmap {
namespace {

using nlohmann::json;

// UNet2DConditionModel has cross-attention, and is another network.
bool is_diffusers_unet(const WeightSource& source) {
  return has_weight(source, "conv_in.weight") &&
         has_weight(source, "time_embedding.linear_1.weight") &&
         has_weight(source, "down_blocks.0.resnets.0.norm1.weight") &&
         has_weight(source, "up_blocks.0.resnets.0.norm1.weight") &&
         std::none_of(source.tensors.begin(), source.tensors.end(), [](const auto& item) {
           return item.first.find(".transformer_blocks.") != std::string::npos;
         });
}

// Of the attention before diffusers 0.12, in use in published files to this day.
constexpr std::array<std::pair<const char*, const char*>, 4> kOldAttentionNames = {
    {{".query.", ".to_q."},
     {".key.", ".to_k."},
     {".value.", ".to_v."},
     {".proj_attn.", ".to_out.0."}}};

TensorMap with_new_attention_names(const TensorMap& tensors) {
  TensorMap result;
  for (const auto& [name, tensor] : tensors) {
    std::string renamed = name;
    for (const auto& [old_part, new_part] : kOldAttentionNames)
      if (const auto at = name.find(old_part);
          at != std::string::npos && name.find(".attentions.") != std::string::npos)
        renamed.replace(at, std::string(old_part).size(), new_part);
    result.emplace(std::move(renamed), tensor);
  }
  return result;
}

json options_from_shapes(const WeightSource& source) {
  const auto level = [](const char* side, int64_t i) {
    return std::string(side) + std::to_string(i) + ".";
  };
  json widths = json::array(), down = json::array(), up = json::array();
  const int64_t levels = count_numbered(source, "down_blocks.");
  for (int64_t i = 0; i < levels; ++i) {
    const std::string below = level("down_blocks.", i), above = level("up_blocks.", i);
    widths.push_back(weight_rows(source, below + "resnets.0.conv1.weight"));
    down.push_back(count_numbered(source, below + "attentions.") ? "AttnDownBlock2D"
                                                                 : "DownBlock2D");
    up.push_back(count_numbered(source, above + "attentions.") ? "AttnUpBlock2D"
                                                               : "UpBlock2D");
  }
  const int64_t shifts =
      weight_rows(source, "down_blocks.0.resnets.0.time_emb_proj.weight");
  const bool middle = has_weight(source, "mid_block.resnets.0.norm1.weight");
  json network = {
      {"type", "unet2d"},
      {"block_out_channels", widths},
      {"down_block_types", down},
      {"up_block_types", up},
      {"layers_per_block", count_numbered(source, "down_blocks.0.resnets.")},
      {"time_embedding_dim", weight_rows(source, "time_embedding.linear_1.weight")},
      {"mid_block_type", middle ? "UNetMidBlock2D" : "none"},
      {"add_attention", count_numbered(source, "mid_block.attentions.") > 0},
      {"resnet_time_scale_shift",
       shifts == 2 * widths[0].get<int64_t>() ? "scale_shift" : "default"}};
  return network;
}

// What shapes cannot tell: the config's keys that are ours too.
constexpr std::array<const char*, 18> kCopied = {
    "block_out_channels", "down_block_types", "up_block_types", "layers_per_block",
    "norm_num_groups", "attn_norm_num_groups", "norm_eps", "flip_sin_to_cos", "freq_shift",
    "downsample_padding", "downsample_type", "upsample_type", "mid_block_scale_factor",
    "act_fn", "center_input_sample", "dropout", "time_embedding_type",
    "resnet_time_scale_shift"};
constexpr std::array<const char*, 6> kNeeded = {
    "norm_num_groups", "norm_eps", "flip_sin_to_cos", "freq_shift", "downsample_padding",
    "attention_head_dim"};

void take_config(const WeightSource& source, const json& config, json& network) {
  const auto given = [&](const char* key) {
    return config.contains(key) && !config[key].is_null();
  };
  FM_CHECK_USAGE(!given("class_embed_type"), source.path.string(),
                 ": config.json: class_embed_type ", config["class_embed_type"].dump(),
                 " is not here; null with num_class_embeds is");
  for (const char* key : kCopied)
    if (given(key)) network[key] = config[key];
  // null there, nothing here: one head. Nothing there: 8 channels a head.
  if (!config.contains("attention_head_dim")) network["attention_head_dim"] = 8;
  if (given("attention_head_dim"))
    network["attention_head_dim"] = config["attention_head_dim"];
}

// Without config.json the user must say what would otherwise be guessed.
void ask_for_options(const WeightSource& source, const json& hinted) {
  const json told = hinted.value("network", json::object());
  std::string missing;
  for (const char* key : kNeeded)
    if (!told.contains(key)) missing += std::string(missing.empty() ? "" : ", ") + key;
  FM_CHECK_USAGE(missing.empty(), source.path.string(), ": shapes do not tell ", missing,
                 "; put config.json beside the file and give the folder, or say them: "
                 "--arch-options network.norm_num_groups=N (and so on; attention_head_dim "
                 "null is one head)");
}

// Of the scheduler that stands beside the network, or nothing: Ho et al.'s.
json diffusion_of(const WeightSource& source, const json& config) {
  json result = {{"type", "ddpm"}};
  if (!config.contains("_scheduler")) return result;
  const json& scheduler = config["_scheduler"];
  const auto only = [&](const char* key, const char* wanted) {
    const json value = scheduler.value(key, json(wanted));
    FM_CHECK_USAGE(value == wanted, source.path.string(), ": scheduler_config.json: ", key,
                   " ", value.dump(), " is not here, only \"", wanted,
                   "\"; say what the network means: --arch-options "
                   "preconditioning.type=ddpm (or another)");
  };
  only("beta_schedule", "linear");
  only("prediction_type", "epsilon");
  if (scheduler.contains("beta_start")) result["beta_start"] = scheduler["beta_start"];
  if (scheduler.contains("beta_end")) result["beta_end"] = scheduler["beta_end"];
  if (scheduler.contains("num_train_timesteps"))
    result["M"] = scheduler["num_train_timesteps"];
  return result;
}

ImportedWeights read_diffusers_unet(const WeightSource& given, const ImportHints& hints) {
  WeightSource source = given;
  source.tensors = with_new_attention_names(given.tensors);
  const json hinted = json::parse(with_hints("{}", hints));
  const json raw_hints = json::parse(hints.options);  // nulls too
  const bool configured = !source.config_json.empty();
  const json config = configured ? json::parse(source.config_json) : json::object();

  json network = options_from_shapes(source);
  if (configured)
    take_config(source, config, network);
  else
    ask_for_options(source, raw_hints);
  const at::Tensor& first = weight_at(source, "conv_in.weight");
  if (first.dim() != 4)
    throw DataError(source.path.string(), {}, "conv_in.weight of four dimensions",
                    shape_text(first.sizes()));
  const int64_t channels = first.size(1), out = weight_rows(source, "conv_out.weight");
  if (out != channels) network["out_channels"] = out;
  json spec;
  if (has_weight(source, "class_embedding.weight")) {
    const int64_t rows = weight_rows(source, "class_embedding.weight");
    spec["label_dim"] = rows;
    network["num_class_embeds"] = rows;
  }
  spec["network"] = network;

  const json size = config.value("sample_size", json());
  if (size.is_number_integer()) spec["sample_shape"] = {channels, size, size};
  if (size.is_array() && size.size() == 2)
    spec["sample_shape"] = {channels, size[0], size[1]};
  FM_CHECK_USAGE(spec.contains("sample_shape") || hinted.contains("sample_shape"),
                 source.path.string(), ": nothing says the size of the images; give it: "
                 "--arch-options sample_shape=[", channels, ",H,W]");
  // Whoever says the type says all of it.
  const json said = hinted.value("preconditioning", json::object());
  if (!said.contains("type")) spec["preconditioning"] = diffusion_of(source, config);

  ImportedWeights result;
  result.spec_json = with_hints(spec.dump(), hints);
  result.tensors = renamed_below(source.tensors, "", "model.");
  return result;
}

TensorMap write_diffusers_unet(const std::string& spec_json, const TensorMap& tensors) {
  const json spec = json::parse(spec_json);
  // Two times it does not have.
  if (spec["network"].value("type", "") != "unet2d" ||
      spec.value("preconditioning", json::object()).value("two_times", false))
    return {};
  return renamed_below(tensors, "model.", "");
}

std::string diffusers_unet_config(const std::string& spec_json) {
  const json spec = json::parse(spec_json);
  json network = spec["network"];
  const json shape = spec["sample_shape"];
  json config = {{"_class_name", "UNet2DModel"},
                 {"act_fn", "silu"},
                 {"add_attention", true},
                 {"attention_head_dim", nullptr},
                 {"attn_norm_num_groups", nullptr},
                 {"block_out_channels", {224, 448, 672, 896}},
                 {"center_input_sample", false},
                 {"class_embed_type", nullptr},
                 {"down_block_types", {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D",
                                       "AttnDownBlock2D"}},
                 {"downsample_padding", 1},
                 {"downsample_type", "conv"},
                 {"dropout", 0.0},
                 {"flip_sin_to_cos", true},
                 {"freq_shift", 0},
                 {"in_channels", shape[0]},
                 {"layers_per_block", 2},
                 {"mid_block_scale_factor", 1},
                 {"mid_block_type", "UNetMidBlock2D"},
                 {"norm_eps", 1e-5},
                 {"norm_num_groups", 32},
                 {"num_class_embeds", nullptr},
                 {"num_train_timesteps", nullptr},
                 {"out_channels", shape[0]},
                 {"resnet_time_scale_shift", "default"},
                 {"sample_size", shape[1] == shape[2] ? shape[1]
                                                      : json::array({shape[1], shape[2]})},
                 {"time_embedding_dim", nullptr},
                 {"time_embedding_type", "positional"},
                 {"up_block_types",
                  {"AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"}},
                 {"upsample_type", "conv"}};
  if (const int64_t labels = spec.value("label_dim", int64_t{0}); labels > 0)
    config["num_class_embeds"] = labels;
  for (auto& [key, value] : config.items())
    if (key != "_class_name" && network.contains(key)) value = network[key];
  if (config["mid_block_type"] == "none") config["mid_block_type"] = nullptr;
  // It says the mean and the variance.
  if (spec.value("preconditioning", json::object()).value("type", "") == "iddpm")
    config["out_channels"] = 2 * shape[0].get<int64_t>();
  return config.dump(2) + "\n";
}

}  // namespace

extern const WeightLayout kDiffusersUnetLayout;
const WeightLayout kDiffusersUnetLayout = {
    "diffusers_unet", "diffusers' UNet2DModel", is_diffusers_unet, read_diffusers_unet,
    write_diffusers_unet, diffusers_unet_config};

}  // namespace flowmap
