#include "flowmap/data/in_memory.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"

namespace flowmap {
namespace {

class InMemoryDataset : public Dataset {
 public:
  InMemoryDataset(InMemoryImages content, bool use_labels)
      : content_(std::move(content)), use_labels_(use_labels) {}

  DatasetInfo info() const override {
    DatasetInfo info;
    info.name = content_.name;
    info.sample_shape = content_.images.sizes().slice(1).vec();
    if (use_labels_)
      info.label_dim =
          content_.vectors.defined() ? content_.vectors.size(1) : content_.class_count;
    info.count = content_.images.size(0);
    return info;
  }

  bool place(at::Device device, int64_t limit) override {
    if (content_.images.device() == device) return true;
    if (static_cast<int64_t>(content_.images.nbytes()) > limit) return false;
    const auto move = [&](at::Tensor& a) {
      if (a.defined()) a = a.to(device);
    };
    try {
      // All or nothing: what was moved first stays usable if the device is full.
      InMemoryImages moved = content_;
      move(moved.images);
      move(moved.classes);
      move(moved.vectors);
      content_ = std::move(moved);
    } catch (const c10::OutOfMemoryError&) {
      return false;
    }
    return true;
  }

  at::Tensor samples(const at::Tensor& index) const override {
    return content_.images.index_select(0, here(index));
  }

  at::Tensor labels(const at::Tensor& index) const override {
    if (!use_labels_) return {};
    if (content_.vectors.defined()) return content_.vectors.index_select(0, here(index));
    return at::one_hot(content_.classes.index_select(0, here(index)), content_.class_count)
        .to(at::kFloat);
  }

 private:
  at::Tensor here(const at::Tensor& index) const {
    return index.to(content_.images.device());
  }

  InMemoryImages content_;
  bool use_labels_;
};

}  // namespace

std::shared_ptr<Dataset> in_memory_dataset(InMemoryImages content, bool use_labels,
                                           int64_t max_images) {
  const int64_t count = content.images.size(0);
  if (count == 0) throw DataError(content.source, {}, "at least one image", "none");
  if (use_labels && !content.classes.defined() && !content.vectors.defined())
    throw UsageError("labels: " + content.source +
                     " has none; set labels to false or add them");
  if (max_images > 0 && max_images < count) {
    std::vector<int64_t> kept(static_cast<std::size_t>(max_images));
    for (int64_t k = 0; k < max_images; ++k)
      kept[static_cast<std::size_t>(k)] =
          shuffled_index(0, static_cast<std::uint64_t>(k), count);
    std::sort(kept.begin(), kept.end());
    const at::Tensor index = at::tensor(kept, at::kLong);
    content.images = content.images.index_select(0, index);
    if (content.classes.defined()) content.classes = content.classes.index_select(0, index);
    if (content.vectors.defined()) content.vectors = content.vectors.index_select(0, index);
  }
  return std::make_shared<InMemoryDataset>(std::move(content), use_labels);
}

}  // namespace flowmap
