#include "flowmap/nn/gradient_checkpointing.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "flowmap/precision.h"

namespace flowmap {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What the second run needs besides the tensors.
struct BlockReplay : torch::CustomClassHolder {
  BlockFunction run;
  Context context;
  std::optional<Draw> draw;     // the caller's may be gone by then
  std::vector<bool> tangents;   // which inputs have one
  std::size_t inputs = 0;       // tensors before the parameters
  at::DeviceType device = at::kCPU;
  bool autocast = false;
  at::ScalarType autocast_type = at::kFloat;

  std::vector<Dual> pack(const variable_list& flat) const {
    std::vector<Dual> duals;
    std::size_t at = 0;
    for (const bool with_tangent : tangents) {
      duals.emplace_back(flat[at++]);
      if (with_tangent) duals.back().tangent = flat[at++];
    }
    return duals;
  }

  variable_list evaluate(const variable_list& flat) const {
    const std::vector<Dual> duals = pack(flat);
    const Dual out = run(duals, context);
    variable_list outputs = {out.value};
    if (out.has_tangent()) outputs.push_back(out.tangent);
    return outputs;
  }
};

class CheckpointedBlock : public torch::autograd::Function<CheckpointedBlock> {
 public:
  // flat: inputs (value, tangent where there is one), then the block's parameters. A
  // TensorList: apply() does not look into vectors for what needs gradients.
  static variable_list forward(AutogradContext* ctx, at::TensorList flat,
                               const c10::intrusive_ptr<BlockReplay>& replay) {
    ctx->save_for_backward(flat.vec());
    ctx->saved_data["replay"] = c10::IValue::make_capsule(replay);
    return replay->evaluate(flat.vec());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto replay = c10::static_intrusive_pointer_cast<BlockReplay>(
        ctx->saved_data["replay"].toCapsule());
    const variable_list saved = ctx->get_saved_variables();
    const at::AutoGradMode with_gradients(true);
    std::optional<AutocastGuard> autocast;
    autocast.emplace(replay->device, replay->autocast ? replay->autocast_type : at::kFloat);
    variable_list flat = saved;
    for (std::size_t i = 0; i < replay->inputs; ++i)
      flat[i] = saved[i].detach().set_requires_grad(saved[i].requires_grad());
    const variable_list outputs = replay->evaluate(flat);
    variable_list wanted, roots, root_gradients;
    for (const at::Tensor& tensor : flat)
      if (tensor.requires_grad()) wanted.push_back(tensor);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      if (!gradients[i].defined() || !outputs[i].requires_grad()) continue;
      roots.push_back(outputs[i]);
      root_gradients.push_back(gradients[i]);
    }
    variable_list found(wanted.size());
    if (!roots.empty() && !wanted.empty())
      found = torch::autograd::grad(roots, wanted, root_gradients, std::nullopt, false,
                                    true);
    variable_list result;
    std::size_t next = 0;
    for (const at::Tensor& tensor : flat)
      result.push_back(tensor.requires_grad() ? found[next++] : at::Tensor());
    result.emplace_back();  // the replay
    return result;
  }
};

}  // namespace

Dual checkpointed(const Context& context, const torch::nn::Module& block,
                  std::span<const Dual> inputs, const BlockFunction& run) {
  if (!context.gradient_checkpointing || !at::GradMode::is_enabled())
    return run(inputs, context);
  auto replay = c10::make_intrusive<BlockReplay>();
  replay->run = run;
  replay->context = context;
  replay->context.taps = nullptr;
  if (context.draw) replay->context.draw = &replay->draw.emplace(*context.draw);
  variable_list flat;
  for (const Dual& input : inputs) {
    flat.push_back(input.value);
    replay->tangents.push_back(input.has_tangent());
    if (input.has_tangent()) flat.push_back(input.tangent);
  }
  replay->inputs = flat.size();
  replay->device = inputs[0].value.device().type();
  replay->autocast = at::autocast::is_autocast_enabled(replay->device);
  replay->autocast_type = at::autocast::get_autocast_dtype(replay->device);
  for (const at::Tensor& parameter : block.parameters()) flat.push_back(parameter);
  const variable_list out = CheckpointedBlock::apply(at::TensorList(flat), replay);
  return out.size() > 1 ? Dual(out[0], out[1]) : Dual(out[0]);
}

}  // namespace flowmap
