// Sums and shapes: the same call on both halves (views cost nothing twice); copies on the
// packed batch where there is one.
#include <ATen/ATen.h>

#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"
#include "flowmap/ops_packed.h"

namespace flowmap::ops {
namespace {

template <class Op>
Dual both(const Dual& a, Op op) {
  at::Tensor value = op(a.value);
  at::Tensor tangent;
  if (a.has_tangent()) tangent = op(a.tangent);
  return {std::move(value), std::move(tangent)};
}

template <class Op>
std::vector<Dual> both_lists(const Dual& a, Op op) {
  std::vector<at::Tensor> values = op(a.value), tangents;
  if (a.has_tangent()) tangents = op(a.tangent);
  std::vector<Dual> result(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    result[i].value = std::move(values[i]);
    if (!tangents.empty()) result[i].tangent = std::move(tangents[i]);
  }
  return result;
}

// A copy row by row (`rows`): of the packed batch where there is one.
template <class Op>
Dual copied(const Dual& a, bool rows, Op op) {
  if (rows && a.has_tangent() && a.value.dim() > 0)
    if (const at::Tensor batch = detail::packed_batch(a); batch.defined())
      return detail::halves(op(batch));
  return both(a, op);
}

}  // namespace

Dual sum(const Dual& a, std::span<const int64_t> dims, bool keepdim) {
  return both(a, [&](const auto& x) { return x.sum(detail::ints(dims), keepdim); });
}

Dual mean(const Dual& a, std::span<const int64_t> dims, bool keepdim) {
  return both(a, [&](const auto& x) { return x.mean(detail::ints(dims), keepdim); });
}

Dual reshape(const Dual& a, std::span<const int64_t> shape) {
  return both(a, [&](const auto& x) { return x.reshape(detail::ints(shape)); });
}

Dual permute(const Dual& a, std::span<const int64_t> order) {
  return both(a, [&](const auto& x) { return x.permute(detail::ints(order)); });
}

Dual transpose(const Dual& a, int64_t d0, int64_t d1) {
  return both(a, [&](const auto& x) { return x.transpose(d0, d1); });
}

Dual in_memory_order(const Dual& a, at::MemoryFormat order) {
  return both(a, [&](const auto& x) { return x.contiguous(order); });
}

Dual contiguous(const Dual& a) {
  return both(a, [](const auto& x) { return x.contiguous(); });
}

Dual flip(const Dual& a, std::span<const int64_t> dims) {
  return both(a, [&](const auto& x) { return x.flip(detail::ints(dims)); });
}

Dual narrow(const Dual& a, int64_t dim, int64_t start, int64_t length) {
  return both(a, [&](const auto& x) { return x.narrow(dim, start, length); });
}

Dual index_select(const Dual& a, int64_t dim, const at::Tensor& index) {
  return both(a, [&](const auto& x) { return x.index_select(dim, index); });
}

std::vector<Dual> chunk(const Dual& a, int64_t chunks, int64_t dim) {
  return both_lists(a, [&](const auto& x) { return x.chunk(chunks, dim); });
}

std::vector<Dual> unbind(const Dual& a, int64_t dim) {
  return both_lists(a, [&](const auto& x) { return x.unbind(dim); });
}

Dual cat(std::span<const Dual> parts, int64_t dim) {
  FM_CHECK(!parts.empty(), "cat needs at least one tensor");
  std::vector<at::Tensor> values, tangents, batches;
  bool any_tangent = false;
  for (const Dual& part : parts) any_tangent = any_tangent || part.has_tangent();
  const int64_t dims = parts[0].value.dim();
  const bool along_batch = dim == 0 || dim + dims == 0;
  for (const Dual& part : parts) {
    values.push_back(part.value);
    if (!any_tangent) continue;
    tangents.push_back(tangent_or_zeros(part));
    if (along_batch || !part.has_tangent()) continue;
    if (at::Tensor batch = detail::packed_batch(part); batch.defined())
      batches.push_back(std::move(batch));
  }
  if (!any_tangent) return at::cat(values, dim);
  if (batches.size() == parts.size()) return detail::halves(at::cat(batches, dim));
  return {at::cat(values, dim), at::cat(tangents, dim)};
}

Dual pad(const Dual& a, std::span<const int64_t> amounts) {
  const int64_t dims = a.value.dim();
  const auto given = static_cast<int64_t>(amounts.size());
  FM_CHECK(given % 2 == 0 && given <= 2 * dims, "pad: ", given,
           " amounts; two a dimension, at most ", 2 * dims);
  return copied(a, given < 2 * dims, [&](const at::Tensor& x) {
    return at::constant_pad_nd(x, detail::ints(amounts), 0);
  });
}

Dual upsample_nearest(const Dual& x, int64_t factor) {
  FM_CHECK(x.value.dim() == 4 && factor >= 1, "upsample_nearest needs [B, C, H, W], got ",
           x.value.sizes());
  const int64_t size[] = {x.value.size(2) * factor, x.value.size(3) * factor};
  return copied(x, true, [&](const at::Tensor& t) {
    return at::upsample_nearest2d(t, at::IntArrayRef(size));
  });
}

Dual column(const Dual& a, int64_t dims) {
  FM_CHECK(a.value.dim() == 1 && dims >= 1,
           "column needs [B] and at least 1 dimension, got ", a.value.dim(), " and ",
           dims);
  std::vector<int64_t> shape(static_cast<std::size_t>(dims), 1);
  shape[0] = a.value.size(0);
  return reshape(a, shape);
}

Dual to(const Dual& a, at::ScalarType dtype) {
  return both(a, [&](const auto& x) { return x.to(dtype); });
}

Dual without_tangent(const Dual& a) { return a.value; }

Dual detach(const Dual& a) {
  return both(a, [](const auto& x) { return x.detach(); });
}

at::Tensor tangent_or_zeros(const Dual& a) {
  return a.has_tangent() ? a.tangent : at::zeros_like(a.value);
}

}  // namespace flowmap::ops
