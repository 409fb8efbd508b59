// What the two U-Nets of EDM (SongUNet, DhariwalUNet) share around their blocks: checks,
// and the mapping of times and labels to the embedding that every block sees.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/dual.h"
#include "flowmap/network.h"
#include "flowmap/nn/guidance_embedding.h"
#include "flowmap/nn/layers.h"

namespace flowmap {

// Throws UsageError unless the sample is {C, H, W} and its sides, `patch` pixels folded
// into one, halve evenly at each of `levels` levels, which the option `key` lists.
void check_unet_shape(const NetworkShape& shape, int64_t levels, int64_t patch,
                      const char* key = "channel_mult");

// The options channel_mult (positive, not empty) and, for two times, time_embedding.
std::vector<int64_t> read_channel_mult(const Config& options,
                                       const std::vector<int64_t>& fallback);
std::string read_time_embedding(const Config& options, const NetworkShape& shape);

struct UNetMappingOptions {
  int64_t noise_channels = 0, emb_channels = 0;
  int64_t augment_dim = 0;
  double label_dropout = 0;
  // Two-time networks; all three are the one-time network on the diagonal, "s_gap" at the
  // start only. "s_gap": s as the one-time network has it, t - s through its own
  // map2_layer0, map2_layer1, added before the last SiLU; the last starts at zero, so
  // that v_{s,t} starts as the one-time network of s. "s_t": the mean of the embeddings
  // of s and t. "encoder_decoder": the encoder sees s, the decoder t, through the same
  // layers.
  std::string time_embedding = "s_gap";
  // SongUNet's habits: sin before cos; labels, times sqrt(label_dim), before the first
  // layer. DhariwalUNet: cos before sin, labels without bias after the second layer.
  bool song = true;
  Init init, init_label, init_augment;
};

struct UNetEmbeddings {
  Dual encoder, decoder;  // [B, emb_channels]
};

// EDM's map_noise, map_label, map_augment, map_layer0, map_layer1 and our map2_layer0,
// map2_layer1 and map_guidance (added before the last SiLU), all registered in the network
// that owns them.
class UNetMapping {
 public:
  UNetMapping(torch::nn::Module& owner, std::shared_ptr<TimeEmbedding> noise,
              UNetMappingOptions options, const NetworkShape& shape);
  UNetEmbeddings forward(const Dual& time, const Dual& time2, const Condition& condition,
                         const Context& context) const;
  double multiply_adds() const { return multiply_adds_; }

 private:
  Dual features(const Dual& time) const;
  Dual embed_labels(const Condition& condition, int64_t batch,
                    const at::TensorOptions& type, const Context& context) const;

  UNetMappingOptions options_;
  int64_t label_dim_, times_;
  double multiply_adds_ = 0;
  std::shared_ptr<TimeEmbedding> map_noise_;
  std::shared_ptr<Linear> map_label_, map_augment_, map_layer0_, map_layer1_;
  std::shared_ptr<Linear> map2_layer0_, map2_layer1_;
  std::shared_ptr<GuidanceEmbedding> map_guidance_;
};

}  // namespace flowmap
