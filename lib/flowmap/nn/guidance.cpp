#include "flowmap/nn/guidance.h"

#include <ATen/ATen.h>

#include <array>

#include "flowmap/base/error.h"
#include "flowmap/ops.h"

namespace flowmap {

namespace {

// `scaled(d)`: the difference d [B, C, ...] times the scale.
template <class Scaled>
Dual guided_by(const Dual& conditional, const Dual& unconditional, int64_t channels,
               const Scaled& scaled) {
  FM_CHECK(conditional.value.sizes() == unconditional.value.sizes(),
           "guidance of ", conditional.value.sizes(), " by ", unconditional.value.sizes());
  const int64_t all = conditional.value.size(1);
  FM_CHECK_USAGE(channels >= 0 && channels <= all, "guidance of the first ", channels,
                 " channels: the output has ", all, "; give 0 for all of them");
  const auto guided = [&](const Dual& c, const Dual& u) {
    return u + scaled(c - u);
  };
  if (channels == 0 || channels == all) return guided(conditional, unconditional);
  const std::array<Dual, 2> parts = {
      guided(ops::narrow(conditional, 1, 0, channels),
             ops::narrow(unconditional, 1, 0, channels)),
      ops::narrow(conditional, 1, channels, all - channels)};
  return ops::cat(parts, 1);
}

}  // namespace

Dual classifier_free_guidance(const Dual& conditional, const Dual& unconditional,
                              double scale, int64_t channels) {
  return guided_by(conditional, unconditional, channels,
                   [&](const Dual& d) { return ops::scale(d, scale); });
}

Dual classifier_free_guidance(const Dual& conditional, const Dual& unconditional,
                              const at::Tensor& scale, int64_t channels) {
  const int64_t batch = conditional.value.size(0);
  FM_CHECK(scale.sizes() == at::IntArrayRef({batch}), "guidance scales have shape ",
           scale.sizes(), "; expected [", batch, "]");
  const Dual scales(scale.to(conditional.value.options().requires_grad(false)));
  return guided_by(conditional, unconditional, channels, [&](const Dual& d) {
    return d * ops::column(scales, d.value.dim());
  });
}

Dual guided_forward(Network& network, const Dual& x, const Dual& time, const Dual& time2,
                    const Condition& condition, double scale, int64_t channels,
                    Context& context) {
  Condition none = condition;
  none.class_labels = at::Tensor();
  const Dual unconditional = network.forward(x, time, time2, none, context);
  const Dual conditional = network.forward(x, time, time2, condition, context);
  return classifier_free_guidance(conditional, unconditional, scale, channels);
}

}  // namespace flowmap
