// The table behind ops_test.cpp: every operation with shapes, and its value written with
// operations that LibTorch's forward mode knows.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "flowmap/ops.h"

namespace flowmap::testing {

struct OpCase {
  std::string name;
  std::vector<std::vector<int64_t>> inputs;   // shapes that may carry tangents
  std::vector<std::vector<int64_t>> weights;  // shapes of constants of the forward mode
  std::function<Dual(const std::vector<Dual>&, const std::vector<at::Tensor>&)> op;
  std::function<at::Tensor(const std::vector<at::Tensor>&,
                           const std::vector<at::Tensor>&)>
      plain;
  bool positive = false;  // inputs in (0.5, 1.5) instead of normal
};

namespace reference {

using Tensors = std::vector<at::Tensor>;

inline at::Tensor softmax(const at::Tensor& x, int64_t dim) {
  const at::Tensor e = x.exp();
  return e / e.sum(dim, true);
}

// x [B, G, n] normalised over n.
inline at::Tensor normalised(const at::Tensor& x, double eps) {
  const at::Tensor centred = x - x.mean(-1, true);
  return centred / ((centred * centred).mean(-1, true) + eps).sqrt();
}

inline at::Tensor group_norm(const at::Tensor& x, int64_t groups, const Tensors& w,
                             double eps) {
  at::Tensor y = normalised(x.reshape({x.size(0), groups, -1}), eps);
  y = y.reshape({x.size(0), x.size(1), -1});
  if (w.size() > 0) y = y * w[0].reshape({1, -1, 1});
  if (w.size() > 1) y = y + w[1].reshape({1, -1, 1});
  return y.reshape(x.sizes());
}

inline at::Tensor gelu(const at::Tensor& x, ops::GeluForm form) {
  if (form == ops::GeluForm::erf) return x * 0.5 * (1 + (x * std::sqrt(0.5)).erf());
  const double k = std::sqrt(2 / 3.14159265358979323846);
  return 0.5 * x * (1 + (k * (x + 0.044715 * x * x * x)).tanh());
}

}  // namespace reference

inline std::vector<OpCase> op_cases() {
  using Duals = std::vector<Dual>;
  using Tensors = std::vector<at::Tensor>;
  namespace ref = reference;
  const at::Tensor none;
  std::vector<OpCase> cases;

  // One input, no weights, several shapes; the largest runs whole vectors and a tail.
  const auto unary = [&](const std::string& name, auto op, auto plain,
                         bool positive = false) {
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{1}, {3}, {2, 3, 5, 7}, {4, 41}, {2, 1, 16}})
      cases.push_back(
          {name + std::to_string(shape.size()) + "d" + std::to_string(shape[0]),
           {shape},
           {},
           [op](const Duals& x, const Tensors&) { return op(x[0]); },
           [plain](const Tensors& x, const Tensors&) { return plain(x[0]); },
           positive});
  };
#define FM_UNARY(name, positive)                         \
  unary(                                                 \
      #name, [](const Dual& x) { return ops::name(x); }, \
      [](const at::Tensor& x) { return at::name(x); }, positive)
  FM_UNARY(exp, false);
  FM_UNARY(log, true);
  FM_UNARY(sqrt, true);
  FM_UNARY(sin, false);
  FM_UNARY(cos, false);
  FM_UNARY(sigmoid, false);
  FM_UNARY(relu, false);
  FM_UNARY(neg, false);
#undef FM_UNARY
  unary(
      "silu", [](const Dual& x) { return ops::silu(x); },
      [](const at::Tensor& x) { return x * x.sigmoid(); });
  unary(
      "silu_far", [](const Dual& x) { return ops::silu(ops::scale(x, 20.0)); },
      [](const at::Tensor& x) { return 20 * x * (20 * x).sigmoid(); });
  for (const auto form : {ops::GeluForm::tanh, ops::GeluForm::erf})
    unary(
        form == ops::GeluForm::tanh ? "gelu_tanh" : "gelu_erf",
        [form](const Dual& x) { return ops::gelu(x, form); },
        [form](const at::Tensor& x) { return ref::gelu(x, form); });
  unary(
      "clamp", [](const Dual& x) { return ops::clamp(x, -0.4, 0.9); },
      [](const at::Tensor& x) { return x.clamp(-0.4, 0.9); });
  unary(
      "add_scalar", [](const Dual& x) { return ops::add_scalar(x, 1.5); },
      [](const at::Tensor& x) { return x + 1.5; });
  unary(
      "scale", [](const Dual& x) { return ops::scale(x, -2.5); },
      [](const at::Tensor& x) { return x * -2.5; });
  unary(
      "to", [](const Dual& x) { return ops::to(x, x.value.scalar_type()); },
      [](const at::Tensor& x) { return x * 1; });
  unary(
      "softmax", [](const Dual& x) { return ops::softmax(x, -1); },
      [](const at::Tensor& x) { return ref::softmax(x, -1); });

  // Two inputs, with broadcasting either way.
  const auto binary = [&](const std::string& name, auto op, auto plain,
                          bool positive = false) {
    const std::vector<std::vector<std::vector<int64_t>>> shapes = {
        {{2, 3, 4, 5}, {2, 3, 4, 5}},
        {{2, 3, 4}, {2, 1, 1}},
        {{5}, {4, 5}},
        {{1}, {3, 2}}};
    for (std::size_t i = 0; i < shapes.size(); ++i)
      cases.push_back(
          {name + std::to_string(i),
           shapes[i],
           {},
           [op](const Duals& x, const Tensors&) { return op(x[0], x[1]); },
           [plain](const Tensors& x, const Tensors&) { return plain(x[0], x[1]); },
           positive});
  };
#define FM_BINARY(name, positive)                                          \
  binary(                                                                  \
      #name, [](const Dual& a, const Dual& b) { return ops::name(a, b); }, \
      [](const at::Tensor& a, const at::Tensor& b) { return at::name(a, b); }, positive)
  FM_BINARY(add, false);
  FM_BINARY(sub, false);
  FM_BINARY(mul, false);
  FM_BINARY(div, true);
#undef FM_BINARY

  for (const bool with_bias : {true, false}) {
    const auto bias_of = [with_bias](const Tensors& w) {
      return with_bias ? w[1] : at::Tensor();
    };
    const auto weights = [with_bias](std::vector<int64_t> w, int64_t b) {
      std::vector<std::vector<int64_t>> shapes = {std::move(w)};
      if (with_bias) shapes.push_back({b});
      return shapes;
    };
    const std::string suffix = with_bias ? "_bias" : "";
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{4}, {3, 4}, {2, 3, 4}, {1, 2, 3, 4}})
      cases.push_back({"linear" + std::to_string(shape.size()) + suffix,
                       {shape},
                       weights({5, 4}, 5),
                       [bias_of](const Duals& x, const Tensors& w) {
                         return ops::linear(x[0], w[0], bias_of(w));
                       },
                       [bias_of](const Tensors& x, const Tensors& w) {
                         return at::linear(x[0], w[0], bias_of(w));
                       }});
    struct Conv {
      int64_t batch, in, out, side, kernel, padding, stride, groups;
    };
    for (const Conv c : {Conv{2, 3, 4, 6, 3, 1, 1, 1}, Conv{1, 4, 4, 5, 3, 1, 2, 2},
                         Conv{3, 4, 2, 4, 1, 0, 1, 1}, Conv{2, 3, 3, 7, 2, 0, 2, 3}}) {
      const std::string name = std::to_string(c.side) + "k" + std::to_string(c.kernel);
      const std::vector<int64_t> shape = {c.batch, c.in, c.side, c.side};
      cases.push_back(
          {"conv2d_" + name + suffix,
           {shape},
           weights({c.out, c.in / c.groups, c.kernel, c.kernel}, c.out),
           [=](const Duals& x, const Tensors& w) {
             return ops::conv2d(x[0], w[0], bias_of(w), c.padding, c.stride, c.groups);
           },
           [=](const Tensors& x, const Tensors& w) {
             return at::conv2d(x[0], w[0], bias_of(w), {c.stride, c.stride},
                               at::IntArrayRef{c.padding, c.padding}, {1, 1}, c.groups);
           }});
      cases.push_back({"conv_transpose2d_" + name + suffix,
                       {shape},
                       weights({c.in, c.out / c.groups, c.kernel, c.kernel}, c.out),
                       [=](const Duals& x, const Tensors& w) {
                         return ops::conv_transpose2d(x[0], w[0], bias_of(w), c.padding,
                                                      c.stride, c.groups);
                       },
                       [=](const Tensors& x, const Tensors& w) {
                         return at::conv_transpose2d(
                             x[0], w[0], bias_of(w), {c.stride, c.stride},
                             {c.padding, c.padding}, {0, 0}, c.groups, {1, 1});
                       }});
    }
  }

  cases.push_back(
      {"matmul2",
       {{3, 4}, {4, 2}},
       {},
       [](const Duals& x, const Tensors&) { return ops::matmul(x[0], x[1]); },
       [](const Tensors& x, const Tensors&) { return at::matmul(x[0], x[1]); }});
  cases.push_back(
      {"matmul4",
       {{2, 3, 4, 5}, {2, 3, 5, 2}},
       {},
       [](const Duals& x, const Tensors&) { return ops::matmul(x[0], x[1]); },
       [](const Tensors& x, const Tensors&) { return at::matmul(x[0], x[1]); }});
  cases.push_back(
      {"softmax_dim1",
       {{2, 5, 3}},
       {},
       [](const Duals& x, const Tensors&) { return ops::softmax(x[0], 1); },
       [](const Tensors& x, const Tensors&) { return ref::softmax(x[0], 1); }});
  for (const std::vector<int64_t>& lead : {std::vector<int64_t>{2}, {2, 3}}) {
    std::vector<int64_t> q = lead, k = lead;
    q.insert(q.end(), {5, 4});
    k.insert(k.end(), {6, 4});
    cases.push_back({"attention" + std::to_string(lead.size()),
                     {q, k, k},
                     {},
                     [](const Duals& x, const Tensors&) {
                       return ops::attention(x[0], x[1], x[2], 0.6);
                     },
                     [](const Tensors& x, const Tensors&) {
                       const at::Tensor s =
                           at::matmul(x[0] * 0.6, x[1].transpose(-2, -1));
                       return at::matmul(ref::softmax(s, -1), x[2]);
                     }});
  }

  struct Norm {
    std::vector<int64_t> shape;
    int64_t groups;
    std::size_t weights;
  };
  for (const Norm& n : std::vector<Norm>{{{2, 4, 3, 5}, 2, 2},
                                         {{3, 6, 4, 4}, 6, 2},
                                         {{2, 6, 7}, 3, 1},
                                         {{2, 8}, 2, 0},
                                         {{1, 4, 5, 9}, 1, 2}}) {
    const std::vector<std::vector<int64_t>> w(n.weights, {n.shape[1]});
    cases.push_back(
        {"group_norm" + std::to_string(n.shape.size()) + "g" + std::to_string(n.groups),
         {n.shape},
         w,
         [=](const Duals& x, const Tensors& t) {
           return ops::group_norm(x[0], n.groups, n.weights > 0 ? t[0] : none,
                                  n.weights > 1 ? t[1] : none, 1e-2);
         },
         [=](const Tensors& x, const Tensors& t) {
           return ref::group_norm(x[0], n.groups, t, 1e-2);
         }});
  }
  for (const std::vector<int64_t>& dims :
       {std::vector<int64_t>{1}, {-1}, {1, 2, 3}, {0, 2}}) {
    std::string over;
    for (const int64_t d : dims) over += std::to_string(d < 0 ? d + 4 : d);
    cases.push_back({"rms_normalize_over" + over,
                     {{2, 3, 4, 5}},
                     {},
                     [=](const Duals& x, const Tensors&) {
                       return ops::rms_normalize(x[0], dims, 1e-2);
                     },
                     [=](const Tensors& x, const Tensors&) {
                       return x[0] / ((x[0] * x[0]).mean(dims, true).sqrt() + 1e-2);
                     }});
  }
  for (const std::size_t count : {0, 2})
    cases.push_back({"layer_norm" + std::to_string(count),
                     {{2, 3, 7}},
                     std::vector<std::vector<int64_t>>(count, {7}),
                     [=](const Duals& x, const Tensors& t) {
                       return ops::layer_norm(x[0], count ? t[0] : none,
                                              count ? t[1] : none, 1e-2);
                     },
                     [=](const Tensors& x, const Tensors& t) {
                       const at::Tensor y = ref::normalised(x[0], 1e-2);
                       return count ? y * t[0] + t[1] : y;
                     }});

  // Sums and shapes.
  const auto shaped = [&](const std::string& name, auto op, auto plain) {
    cases.push_back({name,
                     {{2, 3, 4, 5}},
                     {},
                     [op](const Duals& x, const Tensors&) -> Dual { return op(x[0]); },
                     [plain](const Tensors& x, const Tensors&) -> at::Tensor {
                       return plain(x[0]);
                     }});
  };
  using Ints = std::vector<int64_t>;
  shaped(
      "sum",
      [](const Dual& x) {
        return ops::sum(x, Ints{1, 3}, false);
      },
      [](const at::Tensor& x) {
        return x.sum(at::IntArrayRef{1, 3});
      });
  shaped(
      "mean",
      [](const Dual& x) {
        return ops::mean(x, Ints{2, 3}, true);
      },
      [](const at::Tensor& x) {
        return x.mean(at::IntArrayRef{2, 3}, true);
      });
  shaped(
      "reshape",
      [](const Dual& x) {
        return ops::reshape(x, Ints{6, 20});
      },
      [](const at::Tensor& x) {
        return x.reshape({6, 20});
      });
  shaped(
      "permute",
      [](const Dual& x) {
        return ops::permute(x, Ints{0, 2, 3, 1});
      },
      [](const at::Tensor& x) {
        return x.permute({0, 2, 3, 1});
      });
  shaped(
      "transpose", [](const Dual& x) { return ops::transpose(x, 0, 2); },
      [](const at::Tensor& x) { return x.transpose(0, 2); });
  shaped(
      "flip", [](const Dual& x) { return ops::flip(x, Ints{3}); },
      [](const at::Tensor& x) { return x.flip(at::IntArrayRef{3}); });
  shaped(
      "narrow", [](const Dual& x) { return ops::narrow(x, 2, 1, 2); },
      [](const at::Tensor& x) { return x.narrow(2, 1, 2); });
  shaped(
      "index_select",
      [](const Dual& x) {
        return ops::index_select(x, 1, at::tensor({2, 0, 2}, at::kLong));
      },
      [](const at::Tensor& x) {
        return x.index_select(1, at::tensor({2, 0, 2}, at::kLong));
      });
  shaped(
      "chunk", [](const Dual& x) { return ops::chunk(x, 2, 2)[1]; },
      [](const at::Tensor& x) { return x.chunk(2, 2)[1]; });
  shaped(
      "unbind", [](const Dual& x) { return ops::unbind(x, 1)[2]; },
      [](const at::Tensor& x) { return x.select(1, 2); });
  // One-sided as before a convolution; more dimensions; the batch too; behind a packed map.
  for (const Ints& amounts : {Ints{0, 1, 0, 1}, Ints{2, 0, 0, 0, 1, 3}, Ints{-1, 2},
                              Ints{0, 0, 1, 0, 0, 0, 0, 2}}) {
    std::string name = "pad";
    for (const int64_t n : amounts) name += "_" + std::to_string(n);
    for (const bool packed : {false, true})
      shaped(
          name + (packed ? "_packed" : ""),
          [=](const Dual& x) {
            return packed ? ops::silu(ops::pad(ops::silu(x), amounts))
                          : ops::pad(x, amounts);
          },
          [=](const at::Tensor& x) {
            const auto silu = [](const at::Tensor& a) { return a * a.sigmoid(); };
            return packed ? silu(at::constant_pad_nd(silu(x), amounts, 0))
                          : at::constant_pad_nd(x, amounts, 0);
          });
  }
  for (const bool packed : {false, true})
    shaped(
        packed ? "upsample_nearest_packed" : "upsample_nearest",
        [=](const Dual& x) {
          return ops::upsample_nearest(packed ? ops::silu(x) : x, 3);
        },
        [=](const at::Tensor& x) {
          const at::Tensor y = packed ? x * x.sigmoid() : x;
          return y.repeat_interleave(3, 2).repeat_interleave(3, 3);
        });
  shaped(
      "packed_chain",
      [](const Dual& x) {
        const Dual y = ops::silu(x);
        const std::vector<Dual> parts = {y, ops::scale(y, 3.0), ops::sub(y, y)};
        return ops::silu(ops::cat(parts, 1));
      },
      [](const at::Tensor& x) {
        const at::Tensor y = x * x.sigmoid(), z = at::cat({y, y * 3, y - y}, 1);
        return z * z.sigmoid();
      });
  shaped(
      "packed_cat_along_batch",
      [](const Dual& x) {
        const Dual y = ops::silu(x);
        return ops::cat(std::vector<Dual>{y, ops::scale(y, 3.0)}, 0);
      },
      [](const at::Tensor& x) {
        const at::Tensor y = x * x.sigmoid();
        return at::cat({y, y * 3}, 0);
      });
  for (const int64_t dim : {0, 1, -1})
    cases.push_back({"cat" + std::to_string(dim),
                     {{2, 3, 4}, {2, 3, 4}},
                     {},
                     [=](const Duals& x, const Tensors&) { return ops::cat(x, dim); },
                     [=](const Tensors& x, const Tensors&) { return at::cat(x, dim); }});
  cases.push_back({"column",
                   {{3}},
                   {},
                   [](const Duals& x, const Tensors&) { return ops::column(x[0], 4); },
                   [](const Tensors& x, const Tensors&) {
                     return x[0].reshape({-1, 1, 1, 1});
                   }});
  return cases;
}

}  // namespace flowmap::testing
