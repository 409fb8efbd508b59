// DiT, SiT and their relatives (REPA, MeanFlow): weights under the transformers' own names,
// and what diffusers calls them.
#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/weights/json_spec.h"

namespace flowmap {
namespace {

using nlohmann::json;

bool is_dit(const WeightSource& source) {
  return has_weight(source, "x_embedder.proj.weight") &&
         has_weight(source, "blocks.0.adaLN_modulation.1.weight");
}

// Heads cannot be seen in the shapes: those of the published widths.
int64_t heads_of_width(int64_t width) {
  constexpr std::array<std::pair<int64_t, int64_t>, 4> kPublished = {
      {{384, 6}, {768, 12}, {1024, 16}, {1152, 16}}};
  for (const auto& [published, heads] : kPublished)
    if (width == published) return heads;
  return 0;
}

// What diffusers' config.json says of a transformer, in the words of our options.
json options_from_diffusers(const WeightSource& source) {
  const json config = json::parse(source.config_json.empty() ? "{}" : source.config_json);
  json network = json::object();
  if (config.contains("num_attention_heads"))
    network["num_heads"] = config["num_attention_heads"];
  return network;
}

// What had to be assumed is added to `assumed`.
std::string dit_spec(const WeightSource& source, const ImportHints& hints,
                     std::vector<std::string>& assumed) {
  const bool mean_flow = has_weight(source, "gap_embedder.mlp.0.weight");
  std::string type = hints.arch == "dit" || hints.arch == "sit" ? hints.arch : "";
  if (type.empty() && mean_flow) type = "sit";
  if (type.empty() && source.config_json.find("DiTTransformer2DModel") != std::string::npos)
    type = "dit";
  if (type.empty() && source.config_json.find("SiT") != std::string::npos) type = "sit";
  FM_CHECK_USAGE(!type.empty(), source.path.string(),
                 ": DiT and SiT have the same tensors; say which with --arch dit (index "
                 "of a diffusion, predicts noise) or --arch sit (velocity)");
  const std::string stem = "x_embedder.proj.weight";
  const int64_t width = weight_size(source, stem, 0),
                channels = weight_size(source, stem, 1),
                patch = weight_size(source, stem, 2);
  json network = options_from_diffusers(source);
  network.update({{"type", type},
                  {"hidden_size", width},
                  {"depth", count_numbered(source, "blocks.")},
                  {"patch_size", patch}});
  const double hidden =
      static_cast<double>(weight_rows(source, "blocks.0.mlp.fc1.weight"));
  network["mlp_ratio"] = hidden / static_cast<double>(width);
  if (!network.contains("num_heads")) {
    const json given = json::parse(hints.options, nullptr, false);
    const bool told = given.is_object() && given.contains("network") &&
                      given["network"].contains("num_heads");
    const int64_t heads = heads_of_width(width);
    FM_CHECK_USAGE(heads > 0 || told, source.path.string(), ": shapes do not tell the "
                   "number of heads of width ", width,
                   "; give it: --arch-options network.num_heads=N");
    if (heads > 0) network["num_heads"] = heads;
  }
  const int64_t told = weight_rows(source, "final_layer.linear.weight") / (patch * patch);
  network["learn_sigma"] = told == 2 * channels;
  if (has_weight(source, "blocks.0.attn.q_norm.weight"))
    network["qk_norm"] =
        has_weight(source, "blocks.0.attn.q_norm.bias") ? "layer" : "rms";

  json spec = {{"network", network}};
  if (has_weight(source, "pos_embed")) {
    const int64_t tokens = weight_size(source, "pos_embed", 1);
    const auto side = static_cast<int64_t>(std::lround(std::sqrt(tokens)));
    if (side * side != tokens)
      throw DataError(source.path.string(), {}, "positions of a square image",
                      std::to_string(tokens) + " of them; give --arch-options "
                                               "sample_shape=[C,H,W]");
    spec["sample_shape"] = {channels, side * patch, side * patch};
  } else {
    const json config =
        json::parse(source.config_json.empty() ? "{}" : source.config_json);
    if (!config.contains("sample_size")) assumed.emplace_back("samples of 32x32");
    const int64_t size = config.value("sample_size", int64_t{32});
    spec["sample_shape"] = {channels, size, size};
  }
  const bool labelled = has_weight(source, "y_embedder.embedding_table.weight");
  // One row more than classes, for the null class, unless the hints say there is none.
  if (labelled && hints.options.find("label_dim") == std::string::npos)
    assumed.emplace_back("the last row of the label table means no class (else: "
                         "--arch-options label_dim=N network.class_dropout_prob=0)");
  spec["label_dim"] =
      labelled ? weight_rows(source, "y_embedder.embedding_table.weight") - 1 : 0;
  json& preconditioning = spec["preconditioning"];
  preconditioning["type"] = type == "dit" ? "ddpm" : "flow";
  if (mean_flow) {
    preconditioning["two_times"] = true;
    // It learned with noise at time 1.
    preconditioning["reverse_time"] = true;
    spec["network"]["time_embedding"] = "s_gap";
  }
  return with_hints(spec.dump(), hints);
}

ImportedWeights read_dit(const WeightSource& given, const ImportHints& hints) {
  WeightSource source = given;
  // MeanFlow's second embedding, of the gap between its times.
  source.tensors.merge(renamed_below(given.tensors, "r_embedder.", "gap_embedder."));
  // REPA's heads onto another network's features serve its training only.
  std::erase_if(source.tensors, [](const auto& item) {
    return item.first.starts_with("r_embedder.") || item.first.starts_with("projectors.");
  });
  ImportedWeights result;
  result.spec_json = dit_spec(source, hints, result.assumed);
  result.tensors = renamed_below(source.tensors, "", "model.");
  return result;
}

TensorMap write_dit(const std::string& spec_json, const TensorMap& tensors) {
  const json spec = json::parse(spec_json);
  const std::string type = spec["network"].value("type", "");
  if (type != "dit" && type != "sit") return {};
  TensorMap result = renamed_below(tensors, "model.", "");
  const json& preconditioning = spec["preconditioning"];
  if (!preconditioning.value("two_times", false)) return result;
  // Of two-time transformers only MeanFlow's has names: noise at 1, a gap embedding.
  if (!preconditioning.value("reverse_time", false)) return {};
  result.merge(renamed_below(result, "gap_embedder.", "r_embedder."));
  std::erase_if(result, [](const auto& item) {
    return item.first.starts_with("gap_embedder.");
  });
  return result;
}

// diffusers: DiTTransformer2DModel.

bool is_diffusers_dit(const WeightSource& source) {
  return has_weight(source, "pos_embed.proj.weight") &&
         has_weight(source, "transformer_blocks.0.norm1.linear.weight");
}

// Ours in a block against theirs; q, k and v are apart there.
constexpr std::array<std::pair<const char*, const char*>, 4> kBlockNames = {
    {{"adaLN_modulation.1", "norm1.linear"},
     {"attn.proj", "attn1.to_out.0"},
     {"mlp.fc1", "ff.net.0.proj"},
     {"mlp.fc2", "ff.net.2"}}};
constexpr std::array<std::pair<const char*, const char*>, 3> kOuterNames = {
    {{"x_embedder.proj", "pos_embed.proj"},
     {"final_layer.adaLN_modulation.1", "proj_out_1"},
     {"final_layer.linear", "proj_out_2"}}};
// There each block has its own copy of these.
constexpr std::array<std::pair<const char*, const char*>, 3> kEmbedderNames = {
    {{"t_embedder.mlp.0", "timestep_embedder.linear_1"},
     {"t_embedder.mlp.2", "timestep_embedder.linear_2"},
     {"y_embedder.embedding_table", "class_embedder.embedding_table"}}};
constexpr std::array<const char*, 2> kParts = {".weight", ".bias"};

ImportedWeights read_diffusers_dit(const WeightSource& source, const ImportHints& hints) {
  WeightSource own;
  own.path = source.path;
  own.config_json = source.config_json;
  const auto take = [&](const std::string& ours, const std::string& theirs) {
    for (const char* part : kParts)
      if (has_weight(source, theirs + part))
        own.tensors[ours + part] = weight_at(source, theirs + part);
  };
  for (const auto& [ours, theirs] : kOuterNames) take(ours, theirs);
  const int64_t depth = count_numbered(source, "transformer_blocks.");
  for (int64_t i = 0; i < depth; ++i) {
    const std::string ours = "blocks." + std::to_string(i) + ".";
    const std::string theirs = "transformer_blocks." + std::to_string(i) + ".";
    for (const auto& [a, b] : kBlockNames) take(ours + a, theirs + b);
    for (const char* part : kParts)
      own.tensors[ours + "attn.qkv" + part] =
          at::cat({weight_at(source, theirs + "attn1.to_q" + part),
                   weight_at(source, theirs + "attn1.to_k" + part),
                   weight_at(source, theirs + "attn1.to_v" + part)});
    for (const auto& [a, b] : kEmbedderNames) {
      const std::string name = theirs + "norm1.emb." + b;
      if (i == 0) take(a, name);
      for (const char* part : kParts) {
        if (i == 0 || !has_weight(source, name + part)) continue;
        if (!at::equal(weight_at(source, name + part), weight_at(own, a + std::string(part))))
          throw DataError(source.path.string(), {},
                          "the same embedding in every block, as DiT has it",
                          "'" + name + part + "' differs from that of block 0");
      }
    }
  }
  return read_dit(own, hints);
}

TensorMap write_diffusers_dit(const std::string& spec_json, const TensorMap& tensors) {
  const json spec = json::parse(spec_json);
  if (spec["network"].value("type", "") != "dit" ||
      spec["preconditioning"].value("two_times", false))
    return {};
  TensorMap result;
  const auto give = [&](const std::string& ours, const std::string& theirs) {
    for (const char* part : kParts)
      if (const auto found = tensors.find("model." + ours + part); found != tensors.end())
        result[theirs + part] = found->second;
  };
  for (const auto& [ours, theirs] : kOuterNames) give(ours, theirs);
  for (int64_t i = 0;; ++i) {
    const std::string ours = "blocks." + std::to_string(i) + ".";
    const std::string theirs = "transformer_blocks." + std::to_string(i) + ".";
    if (!tensors.contains("model." + ours + "attn.qkv.weight")) break;
    for (const auto& [a, b] : kBlockNames) give(ours + a, theirs + b);
    for (const auto& [a, b] : kEmbedderNames) give(a, theirs + "norm1.emb." + b);
    for (const char* part : kParts) {
      const auto qkv = tensors.at("model." + ours + "attn.qkv" + part).chunk(3);
      result[theirs + "attn1.to_q" + part] = qkv[0].contiguous();
      result[theirs + "attn1.to_k" + part] = qkv[1].contiguous();
      result[theirs + "attn1.to_v" + part] = qkv[2].contiguous();
    }
  }
  return result;
}

std::string diffusers_dit_config(const std::string& spec_json) {
  const json spec = json::parse(spec_json);
  const json& network = spec["network"];
  const int64_t heads = network.value("num_heads", int64_t{16});
  const int64_t channels = spec["sample_shape"][0];
  const json config = {
      {"_class_name", "DiTTransformer2DModel"},
      {"activation_fn", "gelu-approximate"},
      {"attention_bias", true},
      {"attention_head_dim", network.value("hidden_size", int64_t{1152}) / heads},
      {"dropout", 0.0},
      {"in_channels", channels},
      {"norm_elementwise_affine", false},
      {"norm_eps", 1e-6},
      {"norm_num_groups", 32},
      {"norm_type", "ada_norm_zero"},
      {"num_attention_heads", heads},
      {"num_embeds_ada_norm", spec.value("label_dim", int64_t{1000})},
      {"num_layers", network.value("depth", int64_t{28})},
      {"out_channels", network.value("learn_sigma", true) ? 2 * channels : channels},
      {"patch_size", network.value("patch_size", int64_t{2})},
      {"sample_size", spec["sample_shape"][1]},
      {"upcast_attention", false}};
  return config.dump(2) + "\n";
}

}  // namespace

extern const WeightLayout kDitLayout, kDiffusersDitLayout;
const WeightLayout kDitLayout = {"dit", "DiT, SiT, REPA, MeanFlow: weights by their names",
                                 is_dit, read_dit, write_dit, nullptr};
const WeightLayout kDiffusersDitLayout = {
    "diffusers_dit", "diffusers' DiTTransformer2DModel", is_diffusers_dit,
    read_diffusers_dit, write_diffusers_dit, diffusers_dit_config};

}  // namespace flowmap
