// A small classifier of gray pictures, whose penultimate layer serves as a feature
// detector: five convolutions, two of them strided, with group norm and SiLU, the last
// one residual; a 1x1 squeeze that keeps positions, which learns faster than a mean over
// them; a linear layer of features; logits. No time enters.
#include <ATen/ATen.h>

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/layers.h"
#include "flowmap/ops.h"

namespace flowmap {
namespace {

// 3x3 convolution, group norm (4 groups), SiLU.
// [B, in, H, W] -> [B, out, H / stride, W / stride].
class ClassifierStage : public torch::nn::Module, public Initialised {
 public:
  ClassifierStage(int64_t in, int64_t out, int64_t stride) : stride_(stride) {
    weight_ = register_parameter("weight", at::zeros({out, in, 3, 3}, weight_options()));
    norm_ = register_module("norm", std::make_shared<GroupNorm>(out, 1e-5, 4));
  }
  Dual forward(const Dual& x) const {
    // The norm that follows has the bias.
    return ops::silu(norm_->forward(ops::conv2d(x, weight_, {}, /*padding=*/1, stride_)));
  }
  void initialise(std::uint64_t seed, const std::string& name) override {
    weight_.copy_(draw_init(seed, name + ".weight", weight_.sizes(), weight_.size(1) * 9,
                            weight_.size(0) * 9, InitMode::kaiming_normal));
  }
  double multiply_adds(int64_t height, int64_t width) const {
    return static_cast<double>(weight_.numel() * height * width);
  }

 private:
  int64_t stride_;
  at::Tensor weight_;
  std::shared_ptr<GroupNorm> norm_;
};

class ClassifierCnn final : public Network {
 public:
  ClassifierCnn(const Config& options, const NetworkShape& shape) {
    FM_CHECK_USAGE(shape.sample.size() == 3 && shape.sample[1] % 4 == 0 &&
                       shape.sample[2] % 4 == 0,
                   "network classifier_cnn takes images whose sides are multiples of 4, "
                   "got samples of shape ", shape_text(shape.sample));
    FM_CHECK_USAGE(!shape.guidance, "network classifier_cnn takes no guidance scale as "
                   "an input; set preconditioning.guidance_input = false");
    FM_CHECK_USAGE(shape.label_dim >= 2, "network classifier_cnn: the data has no class "
                   "labels to learn; set data.labels=true");
    const auto channels =
        options.integers("channels", std::vector<int64_t>{16, 32, 64, 96});
    FM_CHECK_USAGE(channels.size() == 4, options.where("channels"),
                   ": channels: expected four widths, got ", channels.size());
    for (const int64_t c : channels)
      FM_CHECK_USAGE(c >= 4 && c <= 4096 && c % 4 == 0, options.where("channels"),
                     ": channels: widths must be multiples of 4 up to 4096, got ", c);
    const int64_t squeeze = options.integer("squeeze", 32, 1, 4096);
    const int64_t features = options.integer("features", 64, 1, 4096);
    dropout_ = options.number("dropout", 0.3, 0, 0.95);

    const int64_t height = shape.sample[1], width = shape.sample[2];
    stages_ = {
        std::make_shared<ClassifierStage>(shape.sample[0], channels[0], 1),
        std::make_shared<ClassifierStage>(channels[0], channels[1], 2),
        std::make_shared<ClassifierStage>(channels[1], channels[2], 1),
        std::make_shared<ClassifierStage>(channels[2], channels[3], 2),
        std::make_shared<ClassifierStage>(channels[3], channels[3], 1),
    };
    constexpr int64_t kShrink[] = {1, 2, 2, 4, 4};
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      const std::string name = "stage" + std::to_string(i);
      register_module(name, stages_[i]);
      multiply_adds_ +=
          stages_[i]->multiply_adds(height / kShrink[i], width / kShrink[i]);
    }
    Conv2dOptions pointwise;
    pointwise.kernel = 1;
    squeeze_ = register_module(
        "squeeze", std::make_shared<Conv2d>(channels[3], squeeze, pointwise));
    features_ = register_module(
        "features",
        std::make_shared<Linear>(squeeze * (height / 4) * (width / 4), features));
    logits_ =
        register_module("logits", std::make_shared<Linear>(features, shape.label_dim));
    multiply_adds_ += squeeze_->multiply_adds(height / 4, width / 4) +
                      features_->multiply_adds() + logits_->multiply_adds();
  }

  // x [B, C, H, W] -> logits [B, label_dim]; times and labels are not looked at.
  // Taps "stage0", ..., "stage4": the maps of the stages; "features": [B, features], after
  // the nonlinearity.
  Dual forward(const Dual& x, const Dual&, const Dual&, const Condition& condition,
               Context& context) override {
    FM_CHECK_USAGE(!condition.guidance.defined(),
                   "network classifier_cnn takes no guidance scale as an input");
    Dual h = x;
    for (std::size_t i = 0; i < stages_.size(); ++i) {
      const Dual stage = stages_[i]->forward(h);
      h = i + 1 < stages_.size() ? stage : h + stage;
      if (context.taps) (*context.taps)["stage" + std::to_string(i)] = h.value;
    }
    h = dropout(h, dropout_, "dropout_maps", context);
    h = ops::silu(squeeze_->forward(h));
    const std::array<int64_t, 2> flat = {h.value.size(0), -1};
    const Dual features = ops::silu(features_->forward(ops::reshape(h, flat)));
    if (context.taps) (*context.taps)["features"] = features.value;
    return logits_->forward(dropout(features, dropout_, "dropout_features", context));
  }

  double multiply_adds() const override { return multiply_adds_; }

 private:
  double dropout_ = 0;
  double multiply_adds_ = 0;
  std::vector<std::shared_ptr<ClassifierStage>> stages_;
  std::shared_ptr<Conv2d> squeeze_;
  std::shared_ptr<Linear> features_, logits_;
};

}  // namespace

std::shared_ptr<Network> make_classifier_cnn(const Config& options,
                                             const NetworkShape& shape) {
  return std::make_shared<ClassifierCnn>(options, shape);
}

}  // namespace flowmap
