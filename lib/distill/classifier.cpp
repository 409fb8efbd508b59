// Not a generator: a classifier of labelled images, for the detectors of `flowmap fid`.
#include <ATen/ATen.h>

#include <memory>
#include <utility>
#include <vector>

#include "distill/method.h"
#include "flowmap/base/error.h"

namespace flowmap::distill {
namespace {

class ClassifierTask final : public Task {
 public:
  ClassifierTask(const BuildContext& context, double smoothing) : smoothing_(smoothing) {
    FM_CHECK_USAGE(context.data.label_dim >= 2,
                   "method classifier needs class labels; set data.labels=true");
    players_.push_back(make_student(context));
  }

  std::vector<Player>& players() override { return players_; }

  // Mean cross entropy over the global batch; labels [b, classes] one-hot or soft,
  // smoothed to (1 - e) label + e / classes.
  LossResult loss(const Turn&, const Batch& batch, const StepContext& step) override {
    Context context = step.training_context(step.draw);
    const Dual none;
    const at::Tensor logits =
        players_[0].model->raw(batch.x, none, none, Condition{}, context)
            .value.to(at::kFloat);
    const double classes = static_cast<double>(logits.size(1));
    const at::Tensor target = batch.labels * (1 - smoothing_) + smoothing_ / classes;
    const at::Tensor each = -(target * at::log_softmax(logits, 1)).sum(1);
    LossResult result;
    result.loss = each.sum() / static_cast<double>(step.global_batch);
    const at::Tensor correct = (logits.argmax(1) == batch.labels.argmax(1));
    result.stats = {{"Loss/loss", each.detach()},
                    {"Accuracy/train", correct.to(at::kFloat)}};
    return result;
  }

  std::string snapshot_info() const override { return R"({"method": "classifier"})"; }

 private:
  double smoothing_;
  std::vector<Player> players_;
};

}  // namespace

std::shared_ptr<Task> make_classifier(const BuildContext& context) {
  const Config method = context.config.child("method");
  return std::make_shared<ClassifierTask>(
      context, method.number("label_smoothing", 0.0, 0.0, 0.9));
}

}  // namespace flowmap::distill
