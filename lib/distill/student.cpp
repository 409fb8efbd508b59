#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "distill/method.h"
#include "distill/weight_options.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/lora.h"
#include "flowmap/preconditioning.h"
#include "flowmap/train/snapshot.h"

namespace flowmap::distill {
namespace {

using nlohmann::json;

// "SECTION.KEY is A there, B here" for the keys in both whose values differ.
std::vector<std::string> differing_options(const json& theirs, const json& ours,
                                           const std::string& section) {
  std::vector<std::string> found;
  if (!theirs.contains(section) || !ours.contains(section)) return found;
  for (const auto& [key, value] : ours[section].items()) {
    if (!theirs[section].contains(key) || theirs[section][key] == value) continue;
    found.push_back(section + "." + key + " is " + theirs[section][key].dump() +
                    " there, " + value.dump() + " here");
  }
  return found;
}

// The specification with every default filled in.
json resolved_spec(const std::string& spec_json, const std::string& name) {
  const Config spec = Config::from_text(spec_json, name + ":spec");
  const ShapesOnly shapes;
  build_model(spec);
  return json::parse(spec.resolved_json());
}

void refuse_poor_transfer(const std::string& file, const LoadReport& report,
                          const json& theirs, const json& ours) {
  if (2 * report.parameters_copied >= report.parameters) return;
  std::vector<std::string> what = differing_options(theirs, ours, "network");
  for (const char* key : {"sample_shape", "label_dim"})
    if (const json there = theirs.value(key, json()), here = ours.value(key, json());
        there != here)
      what.push_back(std::string(key) + " is " + there.dump() + " there, " + here.dump() +
                     " here");
  throw UsageError(format("transfer: %s (network.type %s) fills %lld of the %lld parameter "
                          "tensors of this network (network.type %s), fewer than half; %s",
                          file.c_str(), theirs["network"]["type"].dump().c_str(),
                          static_cast<long long>(report.parameters_copied),
                          static_cast<long long>(report.parameters),
                          ours["network"]["type"].dump().c_str(),
                          join(what, "; ").c_str()));
}

// The same network under another preconditioning is another function.
void warn_of_other_preconditioning(const std::string& file, const json& theirs,
                                   const json& ours) {
  std::vector<std::string> what;
  for (const std::string& option : differing_options(theirs, ours, "preconditioning"))
    for (const char* key : {"type ", "time_scale ", "reverse_time ", "sigma_data "})
      if (option.starts_with(std::string("preconditioning.") + key)) what.push_back(option);
  if (what.empty()) return;
  log_warning("transfer: " + file + ": " + join(what, "; ") +
              "; the network at the start is not the file's velocity on the diagonal");
}

LoadReport transfer_weights(const std::string& file, const WeightOptions& options,
                            const Player& player) {
  LoadReport report;
  json theirs;
  load_with(options, [&](const LoadOptions& load) {
    load_weights(file, *player.model, true, load, &report);
    theirs = resolved_spec(report.spec_json, file);
  });
  const json ours = json::parse(player.spec_json);
  refuse_poor_transfer(file, report, theirs, ours);
  log_line(format("transfer: %lld of %lld tensors of %s copied (of the model's %lld)",
                  static_cast<long long>(report.copied),
                  static_cast<long long>(report.in_file), file.c_str(),
                  static_cast<long long>(report.in_model)));
  warn_of_other_preconditioning(file, theirs, ours);
  return report;
}

// What an adapter is made for must be a network that somebody has in a file.
void add_lora(const BuildContext& context, const std::string& transfer,
              const LoadReport& report, Player& player) {
  const LoraOptions options = read_lora_options(context.config.child("lora"));
  FM_CHECK_USAGE(!transfer.empty(), context.config.where("lora"), ": lora adapts a trained "
                 "network; give its file as transfer");
  FM_CHECK_USAGE(report.parameters_copied == report.parameters &&
                     report.copied == report.in_file,
                 context.config.where("lora"), ": lora: an adapter belongs to one network, "
                 "and ", transfer, " fills ", report.parameters_copied, " of the ",
                 report.parameters, " parameter tensors here (", report.in_file - report.copied,
                 " of its own are left over); make network and preconditioning those of the "
                 "file, or leave lora out");
  player.lora = std::make_shared<Lora>(player.model, options, context.seed);
  log_line(format("lora: rank %lld, %lld of %lld parameters trained (%.3f %%)",
                  static_cast<long long>(options.rank),
                  static_cast<long long>(player.lora->parameter_count()),
                  static_cast<long long>(parameter_count(*player.model)),
                  100.0 * static_cast<double>(player.lora->parameter_count()) /
                      static_cast<double>(parameter_count(*player.model))));
}

}  // namespace

Player make_student(const BuildContext& context) {
  Config spec = context.config;
  spec.set_json("sample_shape", nlohmann::json(context.data.sample_shape).dump(),
                "data set");
  spec.set_json("label_dim", std::to_string(context.data.label_dim), "data set");
  Player player{"model", make_model(spec, context.seed), {}, true};
  // The parts of the resolved configuration that make_model reads: a snapshot carries
  // them and needs nothing else.
  const nlohmann::json resolved = nlohmann::json::parse(spec.resolved_json());
  nlohmann::json parts;
  for (const char* key : {"network", "preconditioning", "sample_shape", "label_dim"})
    if (resolved.contains(key)) parts[key] = resolved[key];
  player.spec_json = parts.dump();
  const std::string transfer = context.config.path("transfer", "");
  const WeightOptions how = read_weight_options(context.config, "transfer_options");
  FM_CHECK_USAGE(how.where.empty() || !transfer.empty(), how.where,
                 ": transfer_options is given, but no transfer");
  const bool adapts = context.config.has("lora");
  LoadReport report;
  // A training state holds an adapter's factors, and not what they are added to.
  if (!transfer.empty() && (context.load_transfer || adapts))
    report = transfer_weights(transfer, how, player);
  if (adapts) add_lora(context, transfer, report, player);
  return player;
}

std::shared_ptr<Task> make_method(const BuildContext& context) {
  std::vector<std::string> names;
  for (const MethodEntry& entry : method_registry()) names.emplace_back(entry.name);
  const std::string type = context.config.child("method").choice("type", names);
  for (const MethodEntry& entry : method_registry())
    if (type == entry.name) return entry.make(context);
  throw UsageError("method.type: unknown method '" + type + "'");
}

Player read_frozen_teacher(const BuildContext& context, const std::string& method,
                           const ModelInfo& student) {
  const Config options = context.config.child("method");
  const std::string file = options.path("teacher", "");
  const WeightOptions how = read_weight_options(context.config, "method.teacher_options");
  FM_CHECK_USAGE(!file.empty(), "method ", method, " learns from a frozen network; give ",
                 "method.teacher");
  Snapshot snapshot;
  load_with(how, [&](const LoadOptions& load) { snapshot = load_snapshot(file, load); });
  const ModelInfo theirs = snapshot.model->info();
  FM_CHECK_USAGE(theirs.sample_shape == student.sample_shape, options.where("teacher"),
                 ": the teacher ", file, " was made for samples of another shape");
  FM_CHECK_USAGE(theirs.label_dim == 0 || theirs.label_dim == student.label_dim,
                 options.where("teacher"), ": the teacher ", file, " knows ",
                 theirs.label_dim, " classes, the student ", student.label_dim,
                 "; set data.labels = true with data of the teacher's classes");
  FM_CHECK_USAGE(theirs.base_std == student.base_std, options.where("teacher"),
                 ": the teacher's noise has standard deviation ", theirs.base_std,
                 ", the student's ", student.base_std,
                 "; set preconditioning.base_std to the teacher's");
  FM_CHECK_USAGE(theirs.interpolant == student.interpolant, options.where("teacher"),
                 ": the teacher follows another interpolant; set "
                 "preconditioning.interpolant to the teacher's");
  return {"teacher", snapshot.model, snapshot.spec_json, false};
}

}  // namespace flowmap::distill
