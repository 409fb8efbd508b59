#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <memory>

#include "flowmap/base/error.h"
#include "flowmap/ops_moments.h"
#include "metrics/metric.h"

namespace flowmap::metrics {

// Room that grows by halves, so that many small batches cost few copies. Copies of a set
// share it; only who stands at its end may go on in it.
struct FeatureSet::Buffer {
  at::Tensor rows;   // [capacity, d]
  int64_t used = 0;
};

void FeatureSet::keep(const at::Tensor& rows) {
  const int64_t held = features.defined() ? features.size(0) : 0;
  const int64_t wanted = held + rows.size(0);
  const bool ours = buffer_ && held > 0 && buffer_->used == held &&
                    buffer_->rows.const_data_ptr() == features.const_data_ptr() &&
                    buffer_->rows.dtype() == rows.dtype();
  if (!ours || buffer_->rows.size(0) < wanted) {
    auto grown = std::make_shared<Buffer>();
    const int64_t capacity = held == 0 ? wanted : std::max(wanted, held + held / 2);
    const at::Tensor& like = held == 0 ? rows : features;
    grown->rows = at::empty({capacity, rows.size(1)}, like.options());
    if (held > 0) grown->rows.narrow(0, 0, held).copy_(features);
    buffer_ = grown;
  }
  buffer_->rows.narrow(0, held, rows.size(0)).copy_(rows);
  buffer_->used = wanted;
  features = buffer_->rows.narrow(0, 0, wanted);
}

void FeatureSet::add(const at::Tensor& batch) {
  FM_CHECK(batch.dim() == 2, "features: expected [B, d], got ", batch.sizes());
  if (batch.size(0) == 0) return;
  FM_CHECK(count == 0 || mean.size(0) == batch.size(1), "features of ",
           count == 0 ? 0 : mean.size(0), " dimensions, then of ", batch.size(1));
  const at::NoGradGuard no_grad;
  // Copies of a set share its tensors until one of them goes on.
  for (at::Tensor* shared : {&mean, &scatter})
    if (count > 0 && shared->use_count() > 1) *shared = shared->clone();
  ops::add_moments(count, mean, scatter, count > 0 ? batch.to(mean.device()) : batch);
  if (keep_features) keep(batch);
}

void FeatureSet::merge(const FeatureSet& other) {
  if (other.count == 0) return;
  if (keep_features)
    FM_CHECK(other.features.defined(), "merging features into a set that keeps them: ",
             "the other set kept none");
  FM_CHECK(count == 0 || mean.size(0) == other.mean.size(0), "merging features of ",
           count == 0 ? 0 : mean.size(0), " dimensions with features of ",
           other.mean.size(0));
  for (at::Tensor* shared : {&mean, &scatter})
    if (count > 0 && shared->use_count() > 1) *shared = shared->clone();
  ops::merge_moments(count, mean, scatter, other.count, other.mean, other.scatter);
  if (keep_features) keep(other.features);
}

at::Tensor FeatureSet::covariance() const {
  FM_CHECK(count >= 2, "a covariance needs at least 2 samples, got ", count);
  return scatter / static_cast<double>(count - 1);
}

}  // namespace flowmap::metrics
