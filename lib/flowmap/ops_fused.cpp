#include "flowmap/ops_fused.h"

#include <torch/csrc/autograd/custom_function.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "flowmap/ops_fused_cpu.h"

namespace flowmap::ops::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr std::int64_t kFusedGrain = 16384;  // numbers a thread takes at least

bool has_cpu_loop(const at::Tensor& batch) {
  return batch.is_cpu() &&
         (batch.scalar_type() == at::kFloat || batch.scalar_type() == at::kDouble);
}

// silu''(z) = s (1-s) (2 + z (1-2s)).
at::Tensor silu_second_derivative(const at::Tensor& z) {
  const at::Tensor s = z.sigmoid();
  return s * (1 - s) * (2 + z * (1 - 2 * s));
}

// silu'(z) = s (1 + z (1-s)).
at::Tensor silu_derivative(const at::Tensor& z) {
  const at::Tensor s = z.sigmoid();
  return s * (1 + z * (1 - s));
}

class SiluBatch : public Function<SiluBatch> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& given) {
    const at::Tensor batch = given.contiguous();
    ctx->save_for_backward({batch});
    const std::int64_t half = batch.numel() / 2;
    at::Tensor result = at::empty_like(batch);
    if (has_cpu_loop(batch)) {
      AT_DISPATCH_FLOATING_TYPES(batch.scalar_type(), "silu_batch", [&] {
        const scalar_t* z = batch.const_data_ptr<scalar_t>();
        scalar_t* y = result.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, half, kFusedGrain, [&](std::int64_t begin, std::int64_t end) {
          silu_forward_cpu<scalar_t>(z + begin, z + half + begin, y + begin,
                                     y + half + begin, end - begin);
        });
      });
      return result;
    }
    const auto in = batch.chunk(2, 0);
    auto out = result.chunk(2, 0);
    at::silu_out(out[0], in[0]);
    out[1].copy_(at::silu_backward(in[1], in[0]));
    return result;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    if (!grads[0].defined()) return {at::Tensor()};
    const at::Tensor batch = ctx->get_saved_variables()[0];
    const at::Tensor grad = grads[0].contiguous();
    if (!at::GradMode::is_enabled() && has_cpu_loop(batch)) {
      at::Tensor result = at::empty_like(batch);
      const std::int64_t half = batch.numel() / 2;
      AT_DISPATCH_FLOATING_TYPES(batch.scalar_type(), "silu_batch_backward", [&] {
        const scalar_t* z = batch.const_data_ptr<scalar_t>();
        const scalar_t* a = grad.const_data_ptr<scalar_t>();
        scalar_t* g = result.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, half, kFusedGrain, [&](std::int64_t begin, std::int64_t end) {
          silu_backward_cpu<scalar_t>(z + begin, z + half + begin, a + begin,
                                      a + half + begin, g + begin, g + half + begin,
                                      end - begin);
        });
      });
      return {result};
    }
    const auto in = batch.chunk(2, 0), adjoint = grad.chunk(2, 0);
    const at::Tensor first = silu_derivative(in[0]);
    return {
        at::cat({first * adjoint[0] + silu_second_derivative(in[0]) * in[1] * adjoint[1],
                 first * adjoint[1]},
                0)};
  }
};

// Group normalisation of a batch as tensors [B, G, C/G, positions], by operations that
// autograd follows.
struct NormTerms {
  at::Tensor xhat, projected;     // x^ and J u (ops_fused_cpu.cpp)
  at::Tensor inverse_sigma;       // [B, G, 1, 1]
  at::Tensor u, u_mean, overlap;  // u, mean(u), mean(x^ u)
};

at::Tensor group_mean(const at::Tensor& x) { return x.mean(at::IntArrayRef{2, 3}, true); }

at::Tensor grouped(const at::Tensor& half, std::int64_t groups) {
  return half.reshape({half.size(0), groups, half.size(1) / groups, -1});
}

NormTerms norm_terms(const at::Tensor& batch, std::int64_t groups, double eps) {
  const auto in = batch.chunk(2, 0);
  const at::Tensor x = grouped(in[0], groups);
  const at::Tensor centred = x - group_mean(x);
  NormTerms t;
  t.inverse_sigma = (group_mean(centred * centred) + eps).rsqrt();
  t.xhat = centred * t.inverse_sigma;
  t.u = grouped(in[1], groups);
  t.u_mean = group_mean(t.u);
  t.overlap = group_mean(t.xhat * t.u);
  t.projected = (t.u - t.u_mean - t.xhat * t.overlap) * t.inverse_sigma;
  return t;
}

at::Tensor norm_composition(const at::Tensor& batch, std::int64_t groups,
                            const at::Tensor& weight, const at::Tensor& bias,
                            double eps) {
  const NormTerms t = norm_terms(batch, groups, eps);
  at::Tensor y = t.xhat, yd = t.projected;
  if (weight.defined()) {
    const at::Tensor w = weight.view({1, groups, -1, 1});
    y = y * w;
    yd = yd * w;
  }
  if (bias.defined()) y = y + bias.view({1, groups, -1, 1});
  return at::cat({y, yd}, 0).reshape(batch.sizes()).to(batch.scalar_type());
}

// Adjoints of batch, weight [C], bias [C]; the formulas stand in ops_fused_cpu.cpp.
std::tuple<at::Tensor, at::Tensor, at::Tensor> norm_backward_composition(
    const at::Tensor& grad, const at::Tensor& batch, std::int64_t groups,
    const at::Tensor& weight, double eps) {
  const NormTerms t = norm_terms(batch, groups, eps);
  const auto adjoint = grad.chunk(2, 0);
  const at::Tensor a = grouped(adjoint[0], groups), ad = grouped(adjoint[1], groups);
  const at::Tensor gweight =
      (a * t.xhat + ad * t.projected).sum(at::IntArrayRef{0, 3}).reshape({-1});
  const at::Tensor gbias = a.sum(at::IntArrayRef{0, 3}).reshape({-1});
  at::Tensor p = a, big_q = ad;
  if (weight.defined()) {
    const at::Tensor w = weight.view({1, groups, -1, 1});
    p = a * w;
    big_q = ad * w;
  }
  const at::Tensor& r = t.inverse_sigma;
  const at::Tensor q = group_mean(t.xhat * big_q), q_mean = group_mean(big_q);
  const at::Tensor gu = (big_q - q_mean - t.xhat * q) * r;
  const at::Tensor along =
      group_mean(p * t.xhat) +
      r * (group_mean(big_q * t.u) - q_mean * t.u_mean - t.overlap * q);
  const at::Tensor gx =
      (p - group_mean(p) - t.xhat * along - t.projected * q - gu * t.overlap) * r;
  return {at::cat({gx, gu}, 0).reshape(batch.sizes()).to(batch.scalar_type()), gweight,
          gbias};
}

template <class T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}

bool norm_has_cpu_loop(const at::Tensor& batch, const at::Tensor& weight,
                       const at::Tensor& bias) {
  const auto fits = [&](const at::Tensor& t) {
    return !t.defined() || (t.is_contiguous() && t.scalar_type() == batch.scalar_type());
  };
  return has_cpu_loop(batch) && batch.numel() > 0 && fits(weight) && fits(bias);
}

class GroupNormBatch : public Function<GroupNormBatch> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& given,
                            const std::optional<at::Tensor>& given_weight,
                            const std::optional<at::Tensor>& given_bias,
                            std::int64_t groups, double eps) {
    const at::Tensor batch = given.contiguous();
    const at::Tensor weight = given_weight.value_or(at::Tensor());
    const at::Tensor bias = given_bias.value_or(at::Tensor());
    ctx->saved_data["groups"] = groups;
    ctx->saved_data["eps"] = eps;
    ctx->saved_data["has_bias"] = bias.defined();
    if (!norm_has_cpu_loop(batch, weight, bias)) {
      ctx->save_for_backward({batch, weight, at::Tensor()});
      return norm_composition(batch, groups, weight, bias, eps);
    }
    at::Tensor result = at::empty_like(batch);
    const std::int64_t rows = batch.size(0) / 2 * groups;  // a row is one group
    at::Tensor stats = at::empty({rows, 4}, batch.options());
    AT_DISPATCH_FLOATING_TYPES(batch.scalar_type(), "group_norm_batch", [&] {
      const Rows<scalar_t> in(batch, weight, groups);
      const scalar_t* b = data_or_null<scalar_t>(bias);
      scalar_t* y = result.mutable_data_ptr<scalar_t>();
      auto* kept =
          reinterpret_cast<NormStats<scalar_t>*>(stats.mutable_data_ptr<scalar_t>());
      at::parallel_for(0, rows, in.grain(), [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row)
          kept[row] = group_norm_forward_cpu<scalar_t>(
              in.group(row), b ? b + in.channel(row) : nullptr,
              static_cast<scalar_t>(eps), y + row * in.size, y + in.half + row * in.size);
      });
    });
    ctx->save_for_backward({batch, weight, stats});
    return result;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    at::Tensor gbatch, gweight, gbias;
    if (grads[0].defined()) {
      const auto saved = ctx->get_saved_variables();
      const at::Tensor &batch = saved[0], &weight = saved[1], &stats = saved[2];
      const at::Tensor grad = grads[0].contiguous();
      const std::int64_t groups = ctx->saved_data["groups"].toInt();
      if (at::GradMode::is_enabled() || !stats.defined())
        std::tie(gbatch, gweight, gbias) = norm_backward_composition(
            grad, batch, groups, weight, ctx->saved_data["eps"].toDouble());
      else
        std::tie(gbatch, gweight, gbias) =
            backward_cpu(grad, batch, groups, weight, stats);
      if (!weight.defined()) gweight = at::Tensor();
      if (!ctx->saved_data["has_bias"].toBool()) gbias = at::Tensor();
    }
    return {gbatch, gweight, gbias, at::Tensor(), at::Tensor()};
  }

 private:
  template <class T>
  struct Rows {
    Rows(const at::Tensor& batch, const at::Tensor& weight, std::int64_t groups_)
        : groups(groups_),
          channels(batch.size(1) / groups_),
          half(batch.numel() / 2),
          size(half / (batch.size(0) / 2 * groups_)),
          x(batch.const_data_ptr<T>()),
          w(data_or_null<T>(weight)) {}
    std::int64_t groups, channels, half, size;
    const T *x, *w;

    std::int64_t channel(std::int64_t row) const { return row % groups * channels; }
    std::int64_t grain() const { return std::max<std::int64_t>(1, kFusedGrain / size); }
    NormGroup<T> group(std::int64_t row) const {
      return {channels, size / channels, w ? w + channel(row) : nullptr, x + row * size,
              x + half + row * size};
    }
  };

  static std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_cpu(
      const at::Tensor& grad, const at::Tensor& batch, std::int64_t groups,
      const at::Tensor& weight, const at::Tensor& stats) {
    at::Tensor gbatch = at::empty_like(batch);
    const std::int64_t samples = batch.size(0) / 2;
    // One part a sample, summed in a fixed order: no dependence on threads.
    at::Tensor parts = at::empty({2, samples, batch.size(1)}, batch.options());
    AT_DISPATCH_FLOATING_TYPES(batch.scalar_type(), "group_norm_batch_backward", [&] {
      const Rows<scalar_t> in(batch, weight, groups);
      const scalar_t* a = grad.const_data_ptr<scalar_t>();
      const auto* kept =
          reinterpret_cast<const NormStats<scalar_t>*>(stats.const_data_ptr<scalar_t>());
      scalar_t* g = gbatch.mutable_data_ptr<scalar_t>();
      scalar_t* gw = parts.mutable_data_ptr<scalar_t>();
      scalar_t* gb = gw + samples * batch.size(1);
      at::parallel_for(
          0, samples * groups, in.grain(), [&](std::int64_t begin, std::int64_t end) {
            for (std::int64_t row = begin; row < end; ++row) {
              const std::int64_t at = row * in.size, part = row * in.channels;
              group_norm_backward_cpu<scalar_t>(in.group(row), kept[row], a + at,
                                                a + in.half + at, g + at,
                                                g + in.half + at, gw + part, gb + part);
            }
          });
    });
    const at::Tensor sums = parts.sum(1);
    return {gbatch, sums[0], sums[1]};
  }
};

}  // namespace

at::Tensor silu_batch(const at::Tensor& batch) { return SiluBatch::apply(batch); }

at::Tensor group_norm_batch(const at::Tensor& batch, std::int64_t groups,
                            const at::Tensor& weight, const at::Tensor& bias,
                            double eps) {
  const auto given = [](const at::Tensor& t) {
    return t.defined() ? std::make_optional(t) : std::nullopt;
  };
  return GroupNormBatch::apply(batch, given(weight), given(bias), groups, eps);
}

}  // namespace flowmap::ops::detail
