// Pairwise mean and scatter in float64 (Chan, Golub, LeVeque, "Updating formulae and a
// pairwise algorithm for computing sample variances", COMPSTAT 1982, eq. 2.1).
#include <ATen/ATen.h>

#include "flowmap/base/error.h"
#include "metrics/metric.h"

namespace flowmap::metrics {

void FeatureSet::add(const at::Tensor& batch) {
  FM_CHECK(batch.dim() == 2, "features: expected [B, d], got ", batch.sizes());
  if (batch.size(0) == 0) return;
  FeatureSet part;
  part.count = batch.size(0);
  const at::Tensor rows = batch.to(at::kCPU, at::kDouble);
  part.mean = rows.mean(0);
  at::Tensor centred = rows - part.mean;
  // The rounding of a mean of large values leaves a common offset in the centred rows;
  // taking it out once more makes the scatter exact to the spread, not to the mean.
  const at::Tensor rest = centred.mean(0);
  part.mean += rest;
  centred -= rest;
  part.scatter = centred.t().mm(centred);
  if (keep_features) {
    part.keep_features = true;
    part.features = batch.detach().to(at::kCPU).contiguous();
    // Own memory: the caller may reuse its batch.
    if (part.features.is_alias_of(batch)) part.features = part.features.clone();
  }
  merge(part);
}

void FeatureSet::merge(const FeatureSet& other) {
  if (other.count == 0) return;
  if (count == 0) {
    count = other.count;
    mean = other.mean.clone();
    scatter = other.scatter.clone();
    if (keep_features) {
      FM_CHECK(other.features.defined(), "merging features into a set that keeps them: ",
               "the other set kept none");
      features = other.features;
    }
    return;
  }
  FM_CHECK(mean.size(0) == other.mean.size(0), "merging features of ", mean.size(0),
           " dimensions with features of ", other.mean.size(0));
  const double n = static_cast<double>(count), m = static_cast<double>(other.count);
  const at::Tensor shift = other.mean - mean;
  scatter += other.scatter;
  scatter += at::outer(shift, shift) * (n * m / (n + m));
  mean += shift * (m / (n + m));
  if (keep_features) {
    FM_CHECK(other.features.defined(), "merging features into a set that keeps them: ",
             "the other set kept none");
    features = at::cat({features, other.features}, 0);
  }
  count += other.count;
}

at::Tensor FeatureSet::covariance() const {
  FM_CHECK(count >= 2, "a covariance needs at least 2 samples, got ", count);
  return scatter / static_cast<double>(count - 1);
}

}  // namespace flowmap::metrics
