#include "flowmap/weights/edm_names.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/weights/json_spec.h"

namespace flowmap {
namespace {

using nlohmann::json;

// One resolution of the encoder.
struct EncoderLevel {
  int64_t size = 0;
  int64_t blocks = 0;
  int64_t channels = 0;
  bool attention = false;
};

// "enc.32x32_block0.conv0.weight" -> 32; 0 where the name has no such form.
int64_t size_in_name(const std::string& name, const std::string& side) {
  if (!name.starts_with(side)) return 0;
  const std::size_t end = name.find('x', side.size());
  if (end == std::string::npos || end == side.size() || end - side.size() > 6) return 0;
  int64_t size = 0;
  for (std::size_t i = side.size(); i < end; ++i) {
    if (name[i] < '0' || name[i] > '9') return 0;
    size = size * 10 + (name[i] - '0');
  }
  return size;
}

// Levels from large to small. `last` names the convolution whose rows are the block's
// output channels, `attention` the one that attending blocks have.
std::vector<EncoderLevel> encoder_levels(const WeightSource& source,
                                         const std::string& prefix,
                                         const std::string& last,
                                         const std::string& attention) {
  std::map<int64_t, EncoderLevel, std::greater<>> levels;
  for (const auto& [name, tensor] : source.tensors) {
    const int64_t size = size_in_name(name, prefix + "enc.");
    if (size == 0) continue;
    EncoderLevel& level = levels[size];
    level.size = size;
    const std::string head = prefix + "enc." + std::to_string(size) + "x" +
                             std::to_string(size) + "_block";
    if (!name.starts_with(head)) continue;
    for (; has_weight(source, head + std::to_string(level.blocks) + last); ++level.blocks)
      level.channels = weight_rows(source, head + std::to_string(level.blocks) + last);
    level.attention = level.attention || has_weight(source, head + "0" + attention);
  }
  std::vector<EncoderLevel> result;
  for (const auto& [size, level] : levels) result.push_back(level);
  const auto broken = std::find_if(result.begin(), result.end(), [](const auto& level) {
    return level.blocks == 0 || level.channels == 0;
  });
  if (result.empty() || broken != result.end())
    throw DataError(source.path.string(), {},
                    "the encoder of a U-Net of EDM's ('" + prefix + "enc.32x32_block0" +
                        last + "', ...)",
                    "names that do not form one");
  return result;
}

json level_options(const std::vector<EncoderLevel>& levels, int64_t model_channels) {
  json network = {{"model_channels", model_channels},
                  {"num_blocks", levels.front().blocks},
                  {"channel_mult", json::array()},
                  {"attn_resolutions", json::array()}};
  for (const EncoderLevel& level : levels) {
    network["channel_mult"].push_back(level.channels / model_channels);
    if (level.attention) network["attn_resolutions"].push_back(level.size);
  }
  return network;
}

// {1, 3, 3, 1} out of the outer product of its normalised self.
json filter_taps(const WeightSource& source, const std::string& name) {
  weight_size(source, name, 3);
  const at::Tensor& filter = weight_at(source, name);
  const at::Tensor sums = filter.to(at::kDouble).reshape({filter.size(-2), -1}).sum(1);
  const double least = sums.min().item<double>();
  json taps = json::array();
  for (int64_t i = 0; i < sums.size(0); ++i)
    taps.push_back(std::round(sums[i].item<double>() / least * 1e4) / 1e4);
  return taps;
}

int64_t columns(const WeightSource& source, const std::string& name) {
  return weight_size(source, name, 1);
}

std::string level_text(int64_t size) {
  return std::to_string(size) + "x" + std::to_string(size);
}

// The rest of what unet_options_from_shapes gives. `out` and `label` name the weights of the
// last convolution and of the label embedding; `constants` are input channels of ones.
json with_shapes(const WeightSource& source, const json& network, int64_t size,
                 const std::string& stem, const std::string& out, const std::string& label,
                 int64_t constants = 0) {
  json result = {{"network", network}};
  result["out_channels"] = weight_rows(source, out);
  result["sample_shape"] = {columns(source, stem) - constants, size, size};
  result["label_dim"] = has_weight(source, label) ? columns(source, label) : 0;
  return result;
}

json song_options(const WeightSource& source, const std::string& prefix) {
  const auto levels = encoder_levels(source, prefix, ".conv1.weight", ".qkv.weight");
  const std::string top = prefix + "enc." + level_text(levels.front().size);
  const int64_t model_channels = weight_rows(source, top + "_conv.weight");
  json network = level_options(levels, model_channels);
  network["type"] = "ddpmpp";
  network["channel_mult_noise"] =
      columns(source, prefix + "map_layer0.weight") / model_channels;
  network["channel_mult_emb"] =
      weight_rows(source, prefix + "map_layer0.weight") / model_channels;
  network["embedding_type"] =
      has_weight(source, prefix + "map_noise.freqs") ? "fourier" : "positional";
  network["adaptive_scale"] = weight_rows(source, top + "_block0.affine.weight") ==
                              2 * levels.front().channels;
  network["encoder_type"] = "standard";
  network["decoder_type"] = "standard";
  for (const auto& [name, tensor] : source.tensors) {
    if (name.find("_aux_skip.") != std::string::npos) network["encoder_type"] = "skip";
    if (name.find("_aux_residual.") != std::string::npos)
      network["encoder_type"] = "residual";
    if (name.find("_aux_up.") != std::string::npos) network["decoder_type"] = "skip";
    if (name.ends_with("resample_filter")) network["resample_filter"] = filter_taps(source, name);
  }
  if (has_weight(source, prefix + "map_augment.weight"))
    network["augment_dim"] = columns(source, prefix + "map_augment.weight");
  const int64_t size = levels.front().size;
  return with_shapes(source, network, size, top + "_conv.weight",
                     prefix + "dec." + level_text(size) + "_aux_conv.weight",
                     prefix + "map_label.weight");
}

json adm_options(const WeightSource& source, const std::string& prefix) {
  const auto levels = encoder_levels(source, prefix, ".conv1.weight", ".qkv.weight");
  const std::string top = prefix + "enc." + level_text(levels.front().size);
  const int64_t model_channels = columns(source, prefix + "map_layer0.weight");
  json network = level_options(levels, model_channels);
  network["type"] = "adm";
  network["channel_mult_emb"] =
      weight_rows(source, prefix + "map_layer0.weight") / model_channels;
  if (has_weight(source, prefix + "map_augment.weight"))
    network["augment_dim"] = columns(source, prefix + "map_augment.weight");
  return with_shapes(source, network, levels.front().size, top + "_conv.weight",
                     prefix + "out_conv.weight", prefix + "map_label.weight");
}

json edm2_options(const WeightSource& source, const std::string& prefix) {
  const auto levels =
      encoder_levels(source, prefix, ".conv_res1.weight", ".attn_qkv.weight");
  const std::string top = prefix + "enc." + level_text(levels.front().size);
  // Only products of model_channels and channel_mult show; any split builds the same.
  const int64_t model_channels = levels.front().channels;
  int64_t widest = 0;
  for (const EncoderLevel& level : levels) widest = std::max(widest, level.channels);
  json network = level_options(levels, model_channels);
  network["type"] = "edm2";
  // Heads are 64 wide unless told: they do not show, but that there are some does.
  for (const auto& [name, tensor] : source.tensors)
    if (name.ends_with("attn_proj.weight") && weight_rows(source, name) < 64)
      network["channels_per_head"] = 0;  // to be told
  const int64_t noise = weight_rows(source, prefix + "emb_fourier.freqs");
  const int64_t emb = weight_rows(source, prefix + "emb_noise.weight");
  const bool fits = noise % model_channels == 0 && emb % model_channels == 0;
  for (const EncoderLevel& level : levels)
    if (level.channels % model_channels != 0 || !fits)
      throw DataError(source.path.string(), {},
                      "widths that are multiples of the first level's",
                      std::to_string(level.channels) + " of " +
                          std::to_string(model_channels) +
                          "; give --arch-options with network.model_channels and "
                          "network.channel_mult");
  if (noise != model_channels) network["channel_mult_noise"] = noise / model_channels;
  if (emb != widest) network["channel_mult_emb"] = emb / model_channels;
  return with_shapes(source, network, levels.front().size, top + "_conv.weight",
                     prefix + "out_conv.weight", prefix + "emb_label.weight",
                     /*constants=*/1);
}

}  // namespace

std::string unet_options_from_shapes(const WeightSource& source,
                                     const std::string& prefix) {
  if (has_weight(source, prefix + "emb_fourier.freqs"))
    return edm2_options(source, prefix).dump();
  if (has_weight(source, prefix + "out_norm.weight"))
    return adm_options(source, prefix).dump();
  return song_options(source, prefix).dump();
}

}  // namespace flowmap
