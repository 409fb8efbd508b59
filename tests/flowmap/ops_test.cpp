#include "flowmap/ops.h"

#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/forward_grad.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/draw.h"
#include "tests/flowmap/ops_cases.h"

namespace flowmap::testing {
namespace {

using Tensors = std::vector<at::Tensor>;

at::Tensor random_tensor(const std::string& name, at::IntArrayRef shape,
                         at::ScalarType type = at::kDouble) {
  return Draw(17, 0, 1).normal(name, shape).squeeze(0).to(type);
}

double relative_error(const at::Tensor& got, const at::Tensor& want) {
  EXPECT_EQ(got.sizes(), want.sizes());
  if (got.sizes() != want.sizes()) return INFINITY;
  const double size = want.to(at::kDouble).norm().item<double>();
  const double error = (got.to(at::kDouble) - want.to(at::kDouble)).norm().item<double>();
  return error / std::max(size, 1e-12);
}

// One case with some of its inputs carrying a tangent.
struct Instance {
  const OpCase* row = nullptr;
  unsigned mask = 0;  // bit i: input i has a tangent
  Tensors values, tangents, weights;

  Instance(const OpCase& op_case, unsigned tangent_mask, at::ScalarType type)
      : row(&op_case), mask(tangent_mask) {
    for (std::size_t i = 0; i < row->inputs.size(); ++i) {
      const std::string id = row->name + std::to_string(i);
      at::Tensor value = random_tensor(id, row->inputs[i], type);
      if (row->positive) value = 0.5 + value.sigmoid();
      values.push_back(value);
      tangents.push_back(random_tensor(id + "tangent", row->inputs[i], type));
    }
    for (std::size_t i = 0; i < row->weights.size(); ++i)
      weights.push_back(
          random_tensor(row->name + "weight" + std::to_string(i), row->weights[i], type));
  }

  bool moves(std::size_t i) const { return (mask >> i) & 1u; }
  std::string title() const { return row->name + " tangents " + std::to_string(mask); }

  Dual run() const { return run(values, tangents, weights); }
  Dual run(const Tensors& v, const Tensors& t, const Tensors& w) const {
    std::vector<Dual> duals;
    for (std::size_t i = 0; i < v.size(); ++i)
      duals.emplace_back(v[i], moves(i) ? t[i] : at::Tensor());
    return row->op(duals, w);
  }
  at::Tensor plain_at(double step) const {
    Tensors moved;
    for (std::size_t i = 0; i < values.size(); ++i)
      moved.push_back(moves(i) ? values[i] + tangents[i] * step : values[i]);
    return row->plain(moved, weights);
  }
};

template <class Check>
void for_each_instance(at::ScalarType type, Check check) {
  static const std::vector<OpCase> cases = op_cases();
  for (const OpCase& row : cases)
    for (unsigned mask = 1; mask < (1u << row.inputs.size()); ++mask) {
      const Instance instance(row, mask, type);
      SCOPED_TRACE(instance.title());
      check(instance);
    }
}

TEST(Ops, AgreeWithForwardModeInFloat64) {
  for_each_instance(at::kDouble, [](const Instance& in) {
    const Dual got = in.run();
    at::Tensor value, tangent;
    {
      const auto level = torch::autograd::ForwardADLevel::get_next_idx();
      Tensors duals;
      for (std::size_t i = 0; i < in.values.size(); ++i)
        duals.push_back(in.moves(i) ? at::_make_dual(in.values[i], in.tangents[i],
                                                     static_cast<int64_t>(level))
                                    : in.values[i]);
      std::tie(value, tangent) =
          at::_unpack_dual(in.row->plain(duals, in.weights), static_cast<int64_t>(level));
      value = value.clone();
      torch::autograd::ForwardADLevel::release_idx(level);
    }
    ASSERT_TRUE(tangent.defined());
    ASSERT_TRUE(got.has_tangent());
    EXPECT_LT(relative_error(got.value, value), 1e-10);
    EXPECT_LT(relative_error(got.tangent, tangent), 1e-10);
  });
}

TEST(Ops, AgreeWithCentralDifferences) {
  for_each_instance(at::kDouble, [](const Instance& in) {
    constexpr double step = 1e-5;
    const at::Tensor slope = (in.plain_at(step) - in.plain_at(-step)) / (2 * step);
    EXPECT_LT(relative_error(in.run().tangent, slope), 1e-7);
  });
}

TEST(Ops, Float32IsFloat64Rounded) {
  for_each_instance(at::kFloat, [](const Instance& in) {
    Tensors v, t, w;
    for (const auto& x : in.values) v.push_back(x.to(at::kDouble));
    for (const auto& x : in.tangents) t.push_back(x.to(at::kDouble));
    for (const auto& x : in.weights) w.push_back(x.to(at::kDouble));
    const Dual got = in.run(), want = in.run(v, t, w);
    EXPECT_EQ(got.value.scalar_type(), at::kFloat);
    EXPECT_EQ(got.tangent.scalar_type(), at::kFloat);
    EXPECT_LT(relative_error(got.value, want.value), 1e-6);
    EXPECT_LT(relative_error(got.tangent, want.tangent), 1e-6);
  });
}

// The loss that mixes both outputs, as a function of all leaves.
struct MixedLoss {
  const Instance* in = nullptr;
  at::Tensor value_weight, tangent_weight;
  Tensors leaves;  // values, tangents of moving inputs, weights

  explicit MixedLoss(const Instance& instance) : in(&instance) {
    for (const auto& x : in->values) leaves.push_back(x.clone());
    for (std::size_t i = 0; i < in->tangents.size(); ++i)
      if (in->moves(i)) leaves.push_back(in->tangents[i].clone());
    for (const auto& x : in->weights) leaves.push_back(x.clone());
    const Dual out = in->run();
    value_weight = random_tensor("r1", out.value.sizes());
    tangent_weight = random_tensor("r2", out.value.sizes());
  }

  at::Tensor operator()(const Tensors& at_leaves) const {
    std::size_t k = 0;
    Tensors v, t, w;
    for (std::size_t i = 0; i < in->values.size(); ++i) v.push_back(at_leaves[k++]);
    for (std::size_t i = 0; i < in->tangents.size(); ++i)
      t.push_back(in->moves(i) ? at_leaves[k++] : at::Tensor());
    for (std::size_t i = 0; i < in->weights.size(); ++i) w.push_back(at_leaves[k++]);
    const Dual out = in->run(v, t, w);
    return (value_weight * out.value + tangent_weight * out.tangent).sum();
  }

  Tensors gradient(const Tensors& at_leaves, bool create_graph) const {
    return torch::autograd::grad({(*this)(at_leaves)}, at_leaves, {}, true, create_graph,
                                 /*allow_unused=*/true);
  }
};

Tensors tracked(const Tensors& leaves) {
  Tensors result;
  for (const auto& leaf : leaves) result.push_back(leaf.detach().requires_grad_());
  return result;
}

Tensors moved(const Tensors& leaves, std::size_t which, const at::Tensor& direction,
              double step) {
  Tensors result = leaves;
  result[which] = leaves[which] + direction * step;
  return result;
}

TEST(Ops, ReverseOverForwardAgreesWithFiniteDifferences) {
  for_each_instance(at::kDouble, [](const Instance& in) {
    const MixedLoss loss(in);
    const Tensors gradient = loss.gradient(tracked(loss.leaves), false);
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      SCOPED_TRACE("leaf " + std::to_string(i));
      const at::Tensor direction =
          random_tensor("d" + std::to_string(i), loss.leaves[i].sizes());
      constexpr double step = 1e-5;
      const double slope = (loss(moved(loss.leaves, i, direction, step)) -
                            loss(moved(loss.leaves, i, direction, -step)))
                               .item<double>() /
                           (2 * step);
      const double got =
          gradient[i].defined() ? (gradient[i] * direction).sum().item<double>() : 0.0;
      EXPECT_NEAR(got, slope, 1e-7 * std::max(1.0, std::abs(slope)));
    }
  });
}

// With create_graph the hand-written backward passes give way to compositions: the same
// gradient, differentiable again.
TEST(Ops, TwiceReverseAgreesWithFiniteDifferences) {
  for_each_instance(at::kDouble, [](const Instance& in) {
    const MixedLoss loss(in);
    const Tensors leaves = tracked(loss.leaves);
    const Tensors once = loss.gradient(leaves, false),
                  graph = loss.gradient(leaves, true);
    Tensors directions;
    at::Tensor slope = at::zeros({}, at::kDouble);
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      directions.push_back(random_tensor("e" + std::to_string(i), leaves[i].sizes()));
      ASSERT_EQ(once[i].defined(), graph[i].defined());
      if (!graph[i].defined()) continue;
      EXPECT_LT(relative_error(graph[i], once[i]), 1e-10);
      slope = slope + (graph[i] * directions[i]).sum();
    }
    if (!slope.requires_grad()) return;  // the loss is linear in everything
    const Tensors second = torch::autograd::grad({slope}, leaves, {}, false, false, true);
    const auto slope_at = [&](double step) {
      Tensors shifted;
      for (std::size_t i = 0; i < leaves.size(); ++i)
        shifted.push_back(loss.leaves[i] + directions[i] * step);
      const Tensors g = loss.gradient(tracked(shifted), false);
      double sum = 0;
      for (std::size_t i = 0; i < g.size(); ++i)
        if (g[i].defined()) sum += (g[i] * directions[i]).sum().item<double>();
      return sum;
    };
    double got = 0;
    for (std::size_t i = 0; i < second.size(); ++i)
      if (second[i].defined()) got += (second[i] * directions[i]).sum().item<double>();
    constexpr double step = 1e-5;
    const double want = (slope_at(step) - slope_at(-step)) / (2 * step);
    EXPECT_NEAR(got, want, 1e-6 * std::max(1.0, std::abs(want)));
  });
}

TEST(Ops, UndefinedTangentStaysUndefinedAndZeroTangentEqualsNone) {
  for (const OpCase& row : op_cases()) {
    const Instance none(row, 0, at::kDouble), all(row, ~0u, at::kDouble);
    SCOPED_TRACE(row.name);
    const Dual plain = none.run();
    EXPECT_FALSE(plain.has_tangent());
    EXPECT_LT(relative_error(plain.value, none.plain_at(0)), 1e-10);
    Tensors zeros;
    for (const auto& t : all.tangents) zeros.push_back(at::zeros_like(t));
    const Dual still = all.run(all.values, zeros, all.weights);
    EXPECT_LT(relative_error(still.value, plain.value), 1e-12);
    EXPECT_EQ(still.tangent.abs().max().item<double>(), 0.0);
  }
}

TEST(Ops, BiasHasNoTangent) {
  const Dual x{random_tensor("x", {2, 4, 6, 6}), random_tensor("xd", {2, 4, 6, 6})};
  const at::Tensor w = random_tensor("w", {4, 4, 3, 3}), b = random_tensor("b", {4});
  const at::Tensor w1 = random_tensor("w1", {5, 6}), b1 = random_tensor("b1", {5});
  const at::Tensor none;
  const std::vector<std::pair<Dual, Dual>> pairs = {
      {ops::conv2d(x, w, b, 1), ops::conv2d(x, w, none, 1)},
      {ops::conv_transpose2d(x, w, b, 1, 2), ops::conv_transpose2d(x, w, none, 1, 2)},
      {ops::linear(x, w1, b1), ops::linear(x, w1, none)},
      {ops::group_norm(x, 2, b, b, 1e-5), ops::group_norm(x, 2, b, none, 1e-5)},
      {ops::layer_norm(x, b1.new_ones({6}), b1.new_ones({6}), 1e-5),
       ops::layer_norm(x, b1.new_ones({6}), none, 1e-5)}};
  for (const auto& [with, without] : pairs) {
    EXPECT_TRUE(at::equal(with.tangent, without.tangent));
    EXPECT_FALSE(at::equal(with.value, without.value));
  }
}

// A chain hands the packed batch from one operation to the next. Cutting every link must
// change nothing, in either direction of autograd.
TEST(Ops, PackedChainEqualsSeparateHalves) {
  const auto chain = [](bool cut, at::ScalarType type) {
    const auto leaf = [&](const char* name, at::IntArrayRef shape) {
      return random_tensor(name, shape, type).requires_grad_();
    };
    Tensors leaves = {leaf("x", {3, 4, 5, 7}),  leaf("xd", {3, 4, 5, 7}),
                      leaf("w", {6, 4, 3, 3}),  leaf("b", {6}),
                      leaf("g", {6}),           leaf("h", {6}),
                      leaf("w2", {6, 6, 1, 1}), leaf("b2", {6})};
    const auto link = [&](const Dual& d) {
      return cut ? Dual(d.value.clone(), d.tangent.clone()) : d;
    };
    const std::vector<int64_t> rows = {3, 6, 35}, images = {3, 6, 5, 7};
    Dual y = ops::conv2d({leaves[0], leaves[1]}, leaves[2], leaves[3], 1);
    y = ops::silu(link(ops::group_norm(link(y), 3, leaves[4], leaves[5], 1e-5)));
    const Dual skip = y;
    y = link(ops::reshape(link(ops::reshape(y, rows)), images));
    y = link(ops::conv2d(y, leaves[6], leaves[7], 0));
    y = link(ops::add(link(y), link(skip)));
    const std::vector<Dual> parts = {link(ops::scale(y, 0.7)), skip};
    y = ops::cat(parts, 1);
    at::Tensor loss = (y.value.sin() + y.tangent * y.value.cos()).sum();
    Tensors result = torch::autograd::grad({loss}, leaves);
    result.push_back(y.value);
    result.push_back(y.tangent);
    return result;
  };
  for (const auto type : {at::kDouble, at::kFloat}) {
    const Tensors whole = chain(false, type), cut = chain(true, type);
    for (std::size_t i = 0; i < whole.size(); ++i)
      EXPECT_LT(relative_error(whole[i], cut[i]), type == at::kFloat ? 2e-6 : 1e-12) << i;
  }
}

TEST(Ops, DetachedHalvesDoNotLeadBackIntoTheGraph) {
  const at::Tensor w = random_tensor("w", {4, 4}).requires_grad_();
  const Dual x{random_tensor("x", {3, 4}), random_tensor("xd", {3, 4})};
  const Dual y = ops::linear(x, w, {});
  EXPECT_FALSE(ops::silu(ops::detach(y)).value.requires_grad());
  EXPECT_FALSE(ops::silu(ops::detach(y)).tangent.requires_grad());
  EXPECT_FALSE(ops::without_tangent(y).has_tangent());
  EXPECT_TRUE(ops::without_tangent(y).value.requires_grad());
  // Only the value is detached: the gradient through the tangent is what it would be if
  // the value were an input of its own.
  const auto gradient = [&](const Dual& half) {
    const Dual out = ops::silu(half);
    return torch::autograd::grad({(out.value + out.tangent).sum()}, {w}, {}, true)[0];
  };
  const at::Tensor got = gradient({y.value.detach(), y.tangent});
  const at::Tensor want = gradient({y.value.detach().clone(), y.tangent.clone()});
  EXPECT_LT(relative_error(got, want), 1e-12);
  // Made, or only viewed, where no graph is recorded; and viewed once more after that.
  const std::vector<int64_t> rows = {3, 2, 2};
  Dual made, viewed;
  {
    const at::NoGradGuard guard;
    made = ops::linear(x, w, {});
    viewed = ops::reshape(y, rows);
  }
  EXPECT_FALSE(ops::silu(made).value.requires_grad());
  for (const Dual& cut : {viewed, ops::reshape(viewed, std::vector<int64_t>{3, 4})}) {
    const Dual out = ops::silu(cut);
    const at::Tensor loss = (out.value + out.tangent).sum();
    if (!loss.requires_grad()) continue;
    const Tensors none = torch::autograd::grad({loss}, {w}, {}, true, false, true);
    EXPECT_FALSE(none[0].defined());
  }
  EXPECT_TRUE(gradient(ops::reshape(y, rows)).defined());
  // Views older than their base's wish for a gradient.
  at::Tensor late = random_tensor("late", {6, 4});
  const Dual early{late.narrow(0, 0, 3), late.narrow(0, 3, 3)};
  late.requires_grad_();
  const at::Tensor loss = ops::silu(early).tangent.sum();
  if (loss.requires_grad()) {
    const Tensors none = torch::autograd::grad({loss}, {late}, {}, true, false, true);
    EXPECT_FALSE(none[0].defined());
  }
}

TEST(Ops, FrozenWeightsAndNoGraph) {
  const at::Tensor w = random_tensor("w", {4, 4, 3, 3}), b = random_tensor("b", {4});
  const Dual x{random_tensor("x", {2, 4, 5, 5}), random_tensor("xd", {2, 4, 5, 5})};
  const Dual plain = ops::conv2d(x, w, b, 1);
  EXPECT_FALSE(plain.value.requires_grad());
  const at::Tensor trained_bias = b.clone().requires_grad_();
  const Dual y = ops::conv2d(x, w, trained_bias, 1);
  const at::Tensor g =
      torch::autograd::grad({(y.value * 2 + y.tangent).sum()}, {trained_bias})[0];
  EXPECT_TRUE(at::allclose(g, at::full({4}, 2.0 * 2 * 25, at::kDouble)));
  EXPECT_TRUE(at::equal(y.value, plain.value));
}

TEST(Ops, RefusesWhatDoesNotFit) {
  const Dual x{random_tensor("x", {2, 6, 4}), random_tensor("xd", {2, 6, 4})};
  const at::Tensor none;
  EXPECT_THROW(ops::group_norm(x, 4, none, none, 1e-5), Error);
  EXPECT_THROW(ops::group_norm(x, 2, random_tensor("w", {5}), none, 1e-5), Error);
  EXPECT_THROW(ops::linear(x, random_tensor("w", {3, 4}), random_tensor("b", {4})),
               Error);
  EXPECT_THROW(ops::cat(std::vector<Dual>{}, 0), Error);
  EXPECT_THROW(ops::clamp(x, 1.0, 0.0), Error);
  EXPECT_THROW(ops::column(x, 4), Error);
}

}  // namespace
}  // namespace flowmap::testing
