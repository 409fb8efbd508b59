#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "apps/run_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/precision.h"
#include "flowmap/tensor_io.h"

namespace flowmap::apps {
namespace {

const std::vector<std::string> kInputNames{
    "x",         "sigma",         "s",         "t",         "class_labels",
    "x_tangent", "sigma_tangent", "s_tangent", "t_tangent", "augment_labels",
    "guidance"};
const std::vector<std::string> kViews{"raw", "denoised", "velocity", "map"};

// The named tensors of one file, on the device and in the precision of the network.
class EvaluationInputs {
 public:
  EvaluationInputs(const std::string& path, at::TensorOptions options) : path_(path) {
    for (auto& [name, tensor] : load_tensors(path)) {
      if (std::find(kInputNames.begin(), kInputNames.end(), name) == kInputNames.end())
        throw UsageError("--inputs: " + path + " holds an unknown tensor '" + name + "'" +
                         suggestion(name, kInputNames));
      tensors_[name] = tensor.to(options);
    }
    if (!has("x")) throw UsageError("--inputs: " + path + " holds no tensor 'x'");
    for (const char* name : {"x", "sigma", "s", "t"})
      if (has(std::string(name) + "_tangent") && !has(name))
        throw UsageError(format("--inputs: '%s_tangent' without '%s'", name, name));
  }

  bool has(const std::string& name) const { return tensors_.count(name) > 0; }

  at::Tensor optional(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? at::Tensor() : found->second;
  }

  Dual samples(const std::vector<int64_t>& sample_shape) const {
    const at::Tensor x = optional("x");
    if (x.dim() < 1 || x.sizes().slice(1) != at::IntArrayRef(sample_shape))
      throw UsageError("--inputs: 'x' has shape " + shape_text(x.sizes()) +
                       ", but the network takes [B" +
                       shape_text(sample_shape).replace(0, 1, ", "));
    FM_CHECK_USAGE(x.size(0) > 0, "--inputs: 'x' of shape ", shape_text(x.sizes()),
                   " holds no samples; give one or more");
    return with_tangent("x", x);
  }

  // [B]; a lone number stands for all rows. s and t lie in [0, 1], sigma is not negative.
  Dual times(const std::string& name) const {
    const double most = name == "sigma" ? std::numeric_limits<double>::infinity() : 1;
    // Negated, so that NaN is refused.
    const at::Tensor given = optional(name);
    const at::Tensor wrong = given.ge(0).logical_and(given.le(most)).logical_not();
    if (wrong.any().item<bool>())
      throw UsageError(format("--inputs: '%s' holds %g; expected %s", name.c_str(),
                              given.masked_select(wrong)[0].item<double>(),
                              name == "sigma" ? "noise levels of 0 or more"
                                              : "times in [0, 1], 0 noise and 1 data"));
    return any_times(name);
  }

  // [B], of any value.
  Dual any_times(const std::string& name) const {
    const int64_t batch = optional("x").size(0);
    const Dual given = with_tangent(name, optional(name));
    const auto fits = given.value.dim() <= 1 &&
                      (given.value.numel() == 1 || given.value.numel() == batch);
    if (!fits)
      throw UsageError(format("--inputs: '%s' has shape %s; expected [%lld] or one number",
                              name.c_str(), shape_text(given.value.sizes()).c_str(),
                              static_cast<long long>(batch)));
    const auto expand = [&](const at::Tensor& a) {
      return a.defined() ? a.reshape({-1}).expand({batch}) : a;
    };
    return {expand(given.value), expand(given.tangent)};
  }

  const std::string& path() const { return path_; }

 private:
  Dual with_tangent(const std::string& name, const at::Tensor& value) const {
    const at::Tensor tangent = optional(name + "_tangent");
    if (tangent.defined() && tangent.sizes() != value.sizes())
      throw UsageError("--inputs: '" + name + "_tangent' has shape " +
                       shape_text(tangent.sizes()) + ", '" + name + "' has " +
                       shape_text(value.sizes()));
    return {value, tangent};
  }

  std::string path_;
  std::map<std::string, at::Tensor> tensors_;
};

// Throws unless exactly the named times are there.
void require_times(const EvaluationInputs& in, const std::string& view,
                   const std::vector<std::string>& wanted) {
  for (const std::string name : {"sigma", "s", "t"}) {
    const bool want = std::find(wanted.begin(), wanted.end(), name) != wanted.end();
    if (want == in.has(name)) continue;
    throw UsageError("--view " + view + " takes x with " + join(wanted, " and ") + "; '" +
                     name + "' is " + (want ? "missing from " : "too much in ") +
                     in.path());
  }
}

std::string native_view(ModelKind kind) {
  return kind == ModelKind::denoiser ? "denoised" : "velocity";
}

Dual evaluate_view(Model& model, const std::string& view, const EvaluationInputs& in) {
  const ModelInfo info = model.info();
  Condition condition;
  condition.class_labels = in.optional("class_labels");
  condition.augment_labels = in.optional("augment_labels");
  if (in.has("guidance")) {
    FM_CHECK_USAGE(info.guidance_input, "--inputs: 'guidance', but the network does not "
                   "take the scale as an input");
    condition.guidance = in.any_times("guidance").value;
  }
  if (condition.class_labels.defined() && info.label_dim == 0)
    throw UsageError("--inputs: 'class_labels', but the network was made without classes");
  Context context;
  const Dual x = in.samples(info.sample_shape);
  if (view == "denoised") {
    require_times(in, view, {"sigma"});
    return model.denoise(x, in.times("sigma"), condition, context);
  }
  if (view == "velocity") {
    if (!in.has("s")) {
      require_times(in, view, {"t"});
      return model.velocity(x, in.times("t"), condition, context);
    }
    require_times(in, view, {"s", "t"});
    return model.average_velocity(x, in.times("s"), in.times("t"), condition, context);
  }
  if (view == "map") {
    require_times(in, view, {"s", "t"});
    return model.map(x, in.times("s"), in.times("t"), condition, context);
  }
  // raw: the numbers go into the network as they are.
  if (in.has("sigma")) {
    require_times(in, view, {"sigma"});
    return model.raw(x, in.any_times("sigma"), {}, condition, context);
  }
  if (!in.has("s")) {
    require_times(in, view, {"t"});
    return model.raw(x, in.any_times("t"), {}, condition, context);
  }
  require_times(in, view, {"s", "t"});
  return model.raw(x, in.any_times("s"), in.any_times("t"), condition, context);
}

}  // namespace

int run_evaluate(std::span<const std::string> arguments) {
  CLI::App app(
      "The network at given tensors, with directional derivatives.\n"
      "IN.safetensors holds x [B,...] and sigma, or t, or s and t ([B] or one number);\n"
      "optionally class_labels [B,L], augment_labels, guidance ([B] or one number), and\n"
      "x_tangent, sigma_tangent, s_tangent, t_tangent. OUT.safetensors gets output and\n"
      "output_tangent.",
      "flowmap evaluate");
  NetworkFlags network;
  std::string inputs, dest, view, dtype = "float32", device_text;
  bool overwrite = false;
  add_network_flags(app, network, "--network");
  app.add_option("--inputs", inputs, "safetensors to read")->required();
  app.add_option("--dest", dest, "safetensors to write")->required()->check(not_empty());
  app.add_option("--view", view,
                 "raw: the network alone, times as it takes them; denoised: D(x; sigma); "
                 "velocity: v_{t,t} of x and t, v_{s,t} of x, s and t; map: X_{s,t} "
                 "(default: denoised for denoisers, else velocity)");
  app.add_option("--dtype", dtype, "float32, bf16 or float64")->capture_default_str();
  app.add_option("--device", device_text, "cpu, cuda, cuda:N (default: cuda where found)");
  app.add_flag("--overwrite", overwrite, "replace OUT if it is there");
  app.footer("\nExample: flowmap evaluate --network F.safetensors --inputs in.safetensors "
             "--dest out.safetensors --dtype float64");
  if (!parse_arguments(app, arguments)) return 0;
  const Precision precision = parse_precision(dtype, "--dtype");
  const at::Device device = parse_device(device_text);
  const bool known = std::count(kViews.begin(), kViews.end(), view) > 0;
  FM_CHECK_USAGE(known || app.count("--view") == 0,
                 "--view: unknown view '", view, "'", suggestion(view, kViews));
  require_network(network);
  require_file(inputs, "--inputs");
  prepare_output(dest, overwrite, "--dest");
  const Snapshot snapshot = load_model(network, device, precision);
  const at::ScalarType type = precision.weights();
  const EvaluationInputs in(inputs, at::TensorOptions().device(device).dtype(type));
  if (view.empty()) view = native_view(snapshot.model->info().kind);

  const at::NoGradGuard no_grad;
  Dual out;
  {
    const PrecisionGuard scope(device.type(), precision);
    out = evaluate_view(*snapshot.model, view, in);
  }
  std::map<std::string, at::Tensor> tensors{{"output", out.value.to(type)}};
  if (out.has_tangent()) tensors["output_tangent"] = out.tangent.to(type);
  save_tensors(dest, tensors, {{"view", view}});
  log_line(view + " " + shape_text(out.value.sizes()) +
           (out.has_tangent() ? " with its tangent" : "") + " -> " + dest);
  return 0;
}

}  // namespace flowmap::apps
