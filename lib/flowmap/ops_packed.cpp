#include "flowmap/ops_packed.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/variable.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <vector>

#include "flowmap/base/error.h"

namespace flowmap::ops::detail {
namespace {

at::Tensor bias_shaped(const at::Tensor& bias, std::int64_t dims, std::int64_t dim) {
  std::vector<std::int64_t> shape(static_cast<std::size_t>(dims), 1);
  shape[static_cast<std::size_t>(dim)] = bias.numel();
  return bias.view(shape);
}

// False if gradients of the view must not reach its base: a view that was made without a
// graph, or is a view of such a one, says that it requires a gradient and yet is cut off;
// one that became a leaf of its own would lose its gradient.
bool in_graph_of(const at::Tensor& view, const at::Tensor& base) {
  if (!at::GradMode::is_enabled()) return true;
  if (!base.requires_grad()) return !view.requires_grad();
  using torch::autograd::CreationMeta;
  const auto made =
      torch::autograd::impl::get_view_autograd_meta(view)->get_creation_meta();
  return view.grad_fn() != nullptr && made != CreationMeta::NO_GRAD_MODE &&
         made != CreationMeta::INFERENCE_MODE;
}

// In place, so that the batch stays one tensor. LibTorch's own rule for writing into a
// view would copy the whole gradient on the way back; here it passes through untouched.
class BiasOnValues : public torch::autograd::Function<BiasOnValues> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, at::Tensor batch,
                            const at::Tensor& bias, std::int64_t dim) {
    ctx->saved_data["dim"] = dim;
    ctx->saved_data["bias_dtype"] = bias.scalar_type();
    batch.narrow(0, 0, batch.size(0) / 2).add_(bias_shaped(bias, batch.dim(), dim));
    ctx->mark_dirty({batch});
    return batch;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor& grad = grads[0];
    at::Tensor bias_grad;
    if (grad.defined() && ctx->needs_input_grad(1)) {
      const std::int64_t kept = ctx->saved_data["dim"].toInt();
      std::vector<std::int64_t> dims;
      for (std::int64_t d = 0; d < grad.dim(); ++d)
        if (d != kept) dims.push_back(d);
      bias_grad = grad.narrow(0, 0, grad.size(0) / 2)
                      .sum(dims)
                      .to(ctx->saved_data["bias_dtype"].toScalarType());
    }
    return {grad, bias_grad, at::Tensor()};
  }
};

}  // namespace

at::Tensor packed_batch(const Dual& x) {
  const at::Tensor &v = x.value, &t = x.tangent;
  if (v.dim() < 1 || v.numel() == 0 || !v.is_view() || !t.is_view()) return {};
  if (v.is_inference() || t.is_inference()) return {};
  if (!v.is_alias_of(t) || v.sizes() != t.sizes() || v.scalar_type() != t.scalar_type())
    return {};
  const at::Tensor base(v._base());
  if (!base.is_same(at::Tensor(t._base())) || base.scalar_type() != v.scalar_type() ||
      base.numel() != 2 * v.numel() || v.storage_offset() != base.storage_offset() ||
      t.storage_offset() != base.storage_offset() + v.numel())
    return {};
  if (!in_graph_of(v, base) || !in_graph_of(t, base)) return {};
  if (!base.is_contiguous() || !v.is_contiguous() || !t.is_contiguous()) return {};
  if (base.dim() == v.dim() && base.sizes().slice(1) == v.sizes().slice(1)) return base;
  std::vector<std::int64_t> shape = v.sizes().vec();
  shape[0] *= 2;
  return base.view(shape);
}

at::Tensor joined(const Dual& x) {
  at::Tensor batch = packed_batch(x);
  return batch.defined() ? batch : at::cat({x.value, x.tangent}, 0);
}

Dual halves(const at::Tensor& batch) {
  std::vector<at::Tensor> parts = at::split(batch, batch.size(0) / 2, 0);
  return {std::move(parts[0]), std::move(parts[1])};
}

at::Tensor add_bias_to_values(const at::Tensor& batch, const at::Tensor& bias,
                              std::int64_t dim) {
  FM_CHECK(bias.dim() == 1 && bias.size(0) == batch.size(dim), "bias of ", bias.numel(),
           " numbers for ", batch.size(dim), " channels");
  return BiasOnValues::apply(batch, bias, dim);
}

bool needs_graph(std::initializer_list<at::Tensor> tensors) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& tensor : tensors)
    if (tensor.defined() && tensor.requires_grad()) return true;
  return false;
}

}  // namespace flowmap::ops::detail
