#include "flowmap/perceptual/trunks.h"

#include <ATen/ATen.h>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

TrunkStep conv_step(int64_t index, int64_t in, int64_t out, bool tap, int64_t kernel,
                    int64_t stride, int64_t padding) {
  return {TrunkLayer::convolution, index, in, out, kernel, stride, padding, 0, tap, false};
}
TrunkStep pool_step(int64_t index, int64_t kernel, bool ceil = false) {
  return {TrunkLayer::pool, index, 0, 0, kernel, 2, 0, 0, false, ceil};
}
// `out` of each of the two expansions.
TrunkStep fire_step(int64_t index, int64_t in, int64_t squeeze, int64_t out, bool tap) {
  return {TrunkLayer::fire, index, in, out, 3, 1, 1, squeeze, tap, false};
}

std::vector<TrunkLayout> all_layouts() {
  const auto conv = conv_step;  // shorter rows
  const auto same = [](int64_t index, int64_t in, int64_t out, bool tap) {
    return conv_step(index, in, out, tap, 3, 1, 1);
  };
  return {
      {"alex", "alexnet-owt-7be5be79.pth",
       {conv(0, 3, 64, true, 11, 4, 2), pool_step(2, 3), conv(3, 64, 192, true, 5, 1, 2),
        pool_step(5, 3), same(6, 192, 384, true), same(8, 384, 256, true),
        same(10, 256, 256, true)}},
      {"vgg", "vgg16-397923af.pth",
       {same(0, 3, 64, false), same(2, 64, 64, true), pool_step(4, 2),
        same(5, 64, 128, false), same(7, 128, 128, true), pool_step(9, 2),
        same(10, 128, 256, false), same(12, 256, 256, false), same(14, 256, 256, true),
        pool_step(16, 2), same(17, 256, 512, false), same(19, 512, 512, false),
        same(21, 512, 512, true), pool_step(23, 2), same(24, 512, 512, false),
        same(26, 512, 512, false), same(28, 512, 512, true)}},
      {"squeeze", "squeezenet1_1-b8a52dc0.pth",
       {conv(0, 3, 64, true, 3, 2, 0), pool_step(2, 3, true),
        fire_step(3, 64, 16, 64, false), fire_step(4, 128, 16, 64, true),
        pool_step(5, 3, true), fire_step(6, 128, 32, 128, false),
        fire_step(7, 256, 32, 128, true), pool_step(8, 3, true),
        fire_step(9, 256, 48, 192, true), fire_step(10, 384, 48, 192, true),
        fire_step(11, 384, 64, 256, true), fire_step(12, 512, 64, 256, true)}},
  };
}

using TrunkWeights = std::map<std::string, at::Tensor>;

at::Tensor relu_conv(const TrunkWeights& weights, const std::string& name, const at::Tensor& x,
                     int64_t stride, int64_t padding) {
  return at::conv2d(x, weights.at(name + ".weight"), weights.at(name + ".bias"), stride,
                    padding)
      .relu();
}

at::Tensor run_step(const TrunkStep& step, const TrunkWeights& weights, const at::Tensor& x,
                    bool average_pooling) {
  const std::string name = std::to_string(step.index);
  switch (step.layer) {
    case TrunkLayer::convolution:
      return relu_conv(weights, name, x, step.stride, step.padding);
    case TrunkLayer::fire: {
      const at::Tensor h = relu_conv(weights, name + ".squeeze", x, 1, 0);
      return at::cat({relu_conv(weights, name + ".expand1x1", h, 1, 0),
                      relu_conv(weights, name + ".expand3x3", h, 1, 1)}, 1);
    }
    case TrunkLayer::pool: break;
  }
  FM_CHECK_USAGE(x.size(2) >= step.kernel && x.size(3) >= step.kernel,
                 "images are too small for this trunk (a map of ", x.size(2), "x",
                 x.size(3), " comes to a pool of ", step.kernel, "x", step.kernel,
                 "); set perceptual.resize = 64");
  return average_pooling
             ? at::avg_pool2d(x, step.kernel, step.stride, 0, step.ceil)
             : at::max_pool2d(x, step.kernel, step.stride, 0, 1, step.ceil);
}

}  // namespace

const std::vector<TrunkLayout>& trunk_layouts() {
  static const std::vector<TrunkLayout> layouts = all_layouts();
  return layouts;
}

const TrunkLayout& trunk_layout(const std::string& name) {
  for (const TrunkLayout& layout : trunk_layouts())
    if (name == layout.name) return layout;
  throw UsageError("lpips: unknown network '" + name + "'; known: alex, vgg, squeeze");
}

std::vector<at::Tensor> run_trunk(const TrunkLayout& layout, const TrunkWeights& weights,
                                  const at::Tensor& x, bool average_pooling) {
  std::vector<at::Tensor> taps;
  at::Tensor h = x;
  for (const TrunkStep& step : layout.steps) {
    h = run_step(step, weights, h, average_pooling);
    if (step.tap) taps.push_back(h);
  }
  return taps;
}

std::map<std::string, std::vector<int64_t>> trunk_parameters(const TrunkLayout& layout) {
  std::map<std::string, std::vector<int64_t>> found;
  const auto add = [&](const std::string& name, int64_t out, int64_t in, int64_t kernel) {
    found[name + ".weight"] = {out, in, kernel, kernel};
    found[name + ".bias"] = {out};
  };
  for (const TrunkStep& step : layout.steps) {
    const std::string name = std::to_string(step.index);
    if (step.layer == TrunkLayer::convolution) add(name, step.out, step.in, step.kernel);
    if (step.layer != TrunkLayer::fire) continue;
    add(name + ".squeeze", step.squeeze, step.in, 1);
    add(name + ".expand1x1", step.out, step.squeeze, 1);
    add(name + ".expand3x3", step.out, step.squeeze, 3);
  }
  return found;
}

}  // namespace flowmap
