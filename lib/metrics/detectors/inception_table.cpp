// The network's convolutions: names and shapes of two conventions side by side.
#include "metrics/detectors/inception_network.h"

namespace flowmap::metrics {
namespace {

constexpr InceptionConvolution kInceptionConvolutions[] = {
    {"", "conv", "Conv2d_1a_3x3", 3, 32, 3, 3, 2, false},
    {"", "conv_1", "Conv2d_2a_3x3", 32, 32, 3, 3, 1, false},
    {"", "conv_2", "Conv2d_2b_3x3", 32, 64, 3, 3, 1, true},
    {"", "conv_3", "Conv2d_3b_1x1", 64, 80, 1, 1, 1, true},
    {"", "conv_4", "Conv2d_4a_3x3", 80, 192, 3, 3, 1, false},
    {"mixed", "mixed_conv", "Mixed_5b.branch1x1", 192, 64, 1, 1, 1, true},
    {"mixed", "mixed_tower_conv", "Mixed_5b.branch5x5_1", 192, 48, 1, 1, 1, true},
    {"mixed", "mixed_tower_conv_1", "Mixed_5b.branch5x5_2", 48, 64, 5, 5, 1, true},
    {"mixed", "mixed_tower_1_conv", "Mixed_5b.branch3x3dbl_1", 192, 64, 1, 1, 1, true},
    {"mixed", "mixed_tower_1_conv_1", "Mixed_5b.branch3x3dbl_2", 64, 96, 3, 3, 1, true},
    {"mixed", "mixed_tower_1_conv_2", "Mixed_5b.branch3x3dbl_3", 96, 96, 3, 3, 1, true},
    {"mixed", "mixed_tower_2_conv", "Mixed_5b.branch_pool", 192, 32, 1, 1, 1, true},
    {"mixed_1", "mixed_1_conv", "Mixed_5c.branch1x1", 256, 64, 1, 1, 1, true},
    {"mixed_1", "mixed_1_tower_conv", "Mixed_5c.branch5x5_1", 256, 48, 1, 1, 1, true},
    {"mixed_1", "mixed_1_tower_conv_1", "Mixed_5c.branch5x5_2", 48, 64, 5, 5, 1, true},
    {"mixed_1", "mixed_1_tower_1_conv", "Mixed_5c.branch3x3dbl_1",
     256, 64, 1, 1, 1, true},
    {"mixed_1", "mixed_1_tower_1_conv_1", "Mixed_5c.branch3x3dbl_2",
     64, 96, 3, 3, 1, true},
    {"mixed_1", "mixed_1_tower_1_conv_2", "Mixed_5c.branch3x3dbl_3",
     96, 96, 3, 3, 1, true},
    {"mixed_1", "mixed_1_tower_2_conv", "Mixed_5c.branch_pool", 256, 64, 1, 1, 1, true},
    {"mixed_2", "mixed_2_conv", "Mixed_5d.branch1x1", 288, 64, 1, 1, 1, true},
    {"mixed_2", "mixed_2_tower_conv", "Mixed_5d.branch5x5_1", 288, 48, 1, 1, 1, true},
    {"mixed_2", "mixed_2_tower_conv_1", "Mixed_5d.branch5x5_2", 48, 64, 5, 5, 1, true},
    {"mixed_2", "mixed_2_tower_1_conv", "Mixed_5d.branch3x3dbl_1",
     288, 64, 1, 1, 1, true},
    {"mixed_2", "mixed_2_tower_1_conv_1", "Mixed_5d.branch3x3dbl_2",
     64, 96, 3, 3, 1, true},
    {"mixed_2", "mixed_2_tower_1_conv_2", "Mixed_5d.branch3x3dbl_3",
     96, 96, 3, 3, 1, true},
    {"mixed_2", "mixed_2_tower_2_conv", "Mixed_5d.branch_pool", 288, 64, 1, 1, 1, true},
    {"mixed_3", "mixed_3_conv", "Mixed_6a.branch3x3", 288, 384, 3, 3, 2, false},
    {"mixed_3", "mixed_3_tower_conv", "Mixed_6a.branch3x3dbl_1", 288, 64, 1, 1, 1, true},
    {"mixed_3", "mixed_3_tower_conv_1", "Mixed_6a.branch3x3dbl_2", 64, 96, 3, 3, 1, true},
    {"mixed_3", "mixed_3_tower_conv_2", "Mixed_6a.branch3x3dbl_3",
     96, 96, 3, 3, 2, false},
    {"mixed_4", "mixed_4_conv", "Mixed_6b.branch1x1", 768, 192, 1, 1, 1, true},
    {"mixed_4", "mixed_4_tower_conv", "Mixed_6b.branch7x7_1", 768, 128, 1, 1, 1, true},
    {"mixed_4", "mixed_4_tower_conv_1", "Mixed_6b.branch7x7_2", 128, 128, 1, 7, 1, true},
    {"mixed_4", "mixed_4_tower_conv_2", "Mixed_6b.branch7x7_3", 128, 192, 7, 1, 1, true},
    {"mixed_4", "mixed_4_tower_1_conv", "Mixed_6b.branch7x7dbl_1",
     768, 128, 1, 1, 1, true},
    {"mixed_4", "mixed_4_tower_1_conv_1", "Mixed_6b.branch7x7dbl_2",
     128, 128, 7, 1, 1, true},
    {"mixed_4", "mixed_4_tower_1_conv_2", "Mixed_6b.branch7x7dbl_3",
     128, 128, 1, 7, 1, true},
    {"mixed_4", "mixed_4_tower_1_conv_3", "Mixed_6b.branch7x7dbl_4",
     128, 128, 7, 1, 1, true},
    {"mixed_4", "mixed_4_tower_1_conv_4", "Mixed_6b.branch7x7dbl_5",
     128, 192, 1, 7, 1, true},
    {"mixed_4", "mixed_4_tower_2_conv", "Mixed_6b.branch_pool", 768, 192, 1, 1, 1, true},
    {"mixed_5", "mixed_5_conv", "Mixed_6c.branch1x1", 768, 192, 1, 1, 1, true},
    {"mixed_5", "mixed_5_tower_conv", "Mixed_6c.branch7x7_1", 768, 160, 1, 1, 1, true},
    {"mixed_5", "mixed_5_tower_conv_1", "Mixed_6c.branch7x7_2", 160, 160, 1, 7, 1, true},
    {"mixed_5", "mixed_5_tower_conv_2", "Mixed_6c.branch7x7_3", 160, 192, 7, 1, 1, true},
    {"mixed_5", "mixed_5_tower_1_conv", "Mixed_6c.branch7x7dbl_1",
     768, 160, 1, 1, 1, true},
    {"mixed_5", "mixed_5_tower_1_conv_1", "Mixed_6c.branch7x7dbl_2",
     160, 160, 7, 1, 1, true},
    {"mixed_5", "mixed_5_tower_1_conv_2", "Mixed_6c.branch7x7dbl_3",
     160, 160, 1, 7, 1, true},
    {"mixed_5", "mixed_5_tower_1_conv_3", "Mixed_6c.branch7x7dbl_4",
     160, 160, 7, 1, 1, true},
    {"mixed_5", "mixed_5_tower_1_conv_4", "Mixed_6c.branch7x7dbl_5",
     160, 192, 1, 7, 1, true},
    {"mixed_5", "mixed_5_tower_2_conv", "Mixed_6c.branch_pool", 768, 192, 1, 1, 1, true},
    {"mixed_6", "mixed_6_conv", "Mixed_6d.branch1x1", 768, 192, 1, 1, 1, true},
    {"mixed_6", "mixed_6_tower_conv", "Mixed_6d.branch7x7_1", 768, 160, 1, 1, 1, true},
    {"mixed_6", "mixed_6_tower_conv_1", "Mixed_6d.branch7x7_2", 160, 160, 1, 7, 1, true},
    {"mixed_6", "mixed_6_tower_conv_2", "Mixed_6d.branch7x7_3", 160, 192, 7, 1, 1, true},
    {"mixed_6", "mixed_6_tower_1_conv", "Mixed_6d.branch7x7dbl_1",
     768, 160, 1, 1, 1, true},
    {"mixed_6", "mixed_6_tower_1_conv_1", "Mixed_6d.branch7x7dbl_2",
     160, 160, 7, 1, 1, true},
    {"mixed_6", "mixed_6_tower_1_conv_2", "Mixed_6d.branch7x7dbl_3",
     160, 160, 1, 7, 1, true},
    {"mixed_6", "mixed_6_tower_1_conv_3", "Mixed_6d.branch7x7dbl_4",
     160, 160, 7, 1, 1, true},
    {"mixed_6", "mixed_6_tower_1_conv_4", "Mixed_6d.branch7x7dbl_5",
     160, 192, 1, 7, 1, true},
    {"mixed_6", "mixed_6_tower_2_conv", "Mixed_6d.branch_pool", 768, 192, 1, 1, 1, true},
    {"mixed_7", "mixed_7_conv", "Mixed_6e.branch1x1", 768, 192, 1, 1, 1, true},
    {"mixed_7", "mixed_7_tower_conv", "Mixed_6e.branch7x7_1", 768, 192, 1, 1, 1, true},
    {"mixed_7", "mixed_7_tower_conv_1", "Mixed_6e.branch7x7_2", 192, 192, 1, 7, 1, true},
    {"mixed_7", "mixed_7_tower_conv_2", "Mixed_6e.branch7x7_3", 192, 192, 7, 1, 1, true},
    {"mixed_7", "mixed_7_tower_1_conv", "Mixed_6e.branch7x7dbl_1",
     768, 192, 1, 1, 1, true},
    {"mixed_7", "mixed_7_tower_1_conv_1", "Mixed_6e.branch7x7dbl_2",
     192, 192, 7, 1, 1, true},
    {"mixed_7", "mixed_7_tower_1_conv_2", "Mixed_6e.branch7x7dbl_3",
     192, 192, 1, 7, 1, true},
    {"mixed_7", "mixed_7_tower_1_conv_3", "Mixed_6e.branch7x7dbl_4",
     192, 192, 7, 1, 1, true},
    {"mixed_7", "mixed_7_tower_1_conv_4", "Mixed_6e.branch7x7dbl_5",
     192, 192, 1, 7, 1, true},
    {"mixed_7", "mixed_7_tower_2_conv", "Mixed_6e.branch_pool", 768, 192, 1, 1, 1, true},
    {"mixed_8", "mixed_8_tower_conv", "Mixed_7a.branch3x3_1", 768, 192, 1, 1, 1, true},
    {"mixed_8", "mixed_8_tower_conv_1", "Mixed_7a.branch3x3_2", 192, 320, 3, 3, 2, false},
    {"mixed_8", "mixed_8_tower_1_conv", "Mixed_7a.branch7x7x3_1",
     768, 192, 1, 1, 1, true},
    {"mixed_8", "mixed_8_tower_1_conv_1", "Mixed_7a.branch7x7x3_2",
     192, 192, 1, 7, 1, true},
    {"mixed_8", "mixed_8_tower_1_conv_2", "Mixed_7a.branch7x7x3_3",
     192, 192, 7, 1, 1, true},
    {"mixed_8", "mixed_8_tower_1_conv_3", "Mixed_7a.branch7x7x3_4",
     192, 192, 3, 3, 2, false},
    {"mixed_9", "mixed_9_conv", "Mixed_7b.branch1x1", 1280, 320, 1, 1, 1, true},
    {"mixed_9", "mixed_9_tower_conv", "Mixed_7b.branch3x3_1", 1280, 384, 1, 1, 1, true},
    {"mixed_9", "mixed_9_tower_mixed_conv", "Mixed_7b.branch3x3_2a",
     384, 384, 1, 3, 1, true},
    {"mixed_9", "mixed_9_tower_mixed_conv_1", "Mixed_7b.branch3x3_2b",
     384, 384, 3, 1, 1, true},
    {"mixed_9", "mixed_9_tower_1_conv", "Mixed_7b.branch3x3dbl_1",
     1280, 448, 1, 1, 1, true},
    {"mixed_9", "mixed_9_tower_1_conv_1", "Mixed_7b.branch3x3dbl_2",
     448, 384, 3, 3, 1, true},
    {"mixed_9", "mixed_9_tower_1_mixed_conv", "Mixed_7b.branch3x3dbl_3a",
     384, 384, 1, 3, 1, true},
    {"mixed_9", "mixed_9_tower_1_mixed_conv_1", "Mixed_7b.branch3x3dbl_3b",
     384, 384, 3, 1, 1, true},
    {"mixed_9", "mixed_9_tower_2_conv", "Mixed_7b.branch_pool", 1280, 192, 1, 1, 1, true},
    {"mixed_10", "mixed_10_conv", "Mixed_7c.branch1x1", 2048, 320, 1, 1, 1, true},
    {"mixed_10", "mixed_10_tower_conv", "Mixed_7c.branch3x3_1", 2048, 384, 1, 1, 1, true},
    {"mixed_10", "mixed_10_tower_mixed_conv", "Mixed_7c.branch3x3_2a",
     384, 384, 1, 3, 1, true},
    {"mixed_10", "mixed_10_tower_mixed_conv_1", "Mixed_7c.branch3x3_2b",
     384, 384, 3, 1, 1, true},
    {"mixed_10", "mixed_10_tower_1_conv", "Mixed_7c.branch3x3dbl_1",
     2048, 448, 1, 1, 1, true},
    {"mixed_10", "mixed_10_tower_1_conv_1", "Mixed_7c.branch3x3dbl_2",
     448, 384, 3, 3, 1, true},
    {"mixed_10", "mixed_10_tower_1_mixed_conv", "Mixed_7c.branch3x3dbl_3a",
     384, 384, 1, 3, 1, true},
    {"mixed_10", "mixed_10_tower_1_mixed_conv_1", "Mixed_7c.branch3x3dbl_3b",
     384, 384, 3, 1, 1, true},
    {"mixed_10", "mixed_10_tower_2_conv", "Mixed_7c.branch_pool",
     2048, 192, 1, 1, 1, true},
};

constexpr const char* kInceptionBlocks[] = {
    "mixed",   "mixed_1", "mixed_2", "mixed_3", "mixed_4", "mixed_5",
    "mixed_6", "mixed_7", "mixed_8", "mixed_9", "mixed_10"};

// Edges of the maps: after conv, conv_1, conv_2, pool, conv_4, pool_1; the blocks.
int inception_edge(const InceptionConvolution& layer) {
  const std::string_view block = layer.block, name = layer.name;
  if (block.empty())
    return name == "conv" ? 149 : name == "conv_1" || name == "conv_2" ? 147
                                  : name == "conv_3"                   ? 73
                                                                       : 71;
  const int before = block == "mixed" || block == "mixed_1" || block == "mixed_2" ||
                             block == "mixed_3"
                         ? 35
                     : block == "mixed_9" || block == "mixed_10" ? 8
                                                                 : 17;
  return layer.stride == 2 ? before / 2 : before;
}

}  // namespace

std::span<const InceptionConvolution> inception_convolutions() {
  return kInceptionConvolutions;
}

std::span<const char* const> inception_blocks() { return kInceptionBlocks; }

double InceptionNetwork::multiply_adds(std::string_view block) {
  double sum = 0;
  std::string_view last;
  for (const InceptionConvolution& layer : kInceptionConvolutions) {
    if (last == block && layer.block != last) break;
    last = layer.block;
    const double edge = inception_edge(layer);
    sum += edge * edge * layer.inputs * layer.outputs * layer.height * layer.width;
  }
  return sum;
}

}  // namespace flowmap::metrics
