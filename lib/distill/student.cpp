#include <nlohmann/json.hpp>

#include "distill/method.h"
#include "flowmap/base/error.h"
#include "flowmap/train/snapshot.h"

namespace flowmap::distill {

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
  if (!transfer.empty() && context.load_transfer) {
    const int64_t copied = load_weights(transfer, *player.model, true);
    FM_CHECK_USAGE(copied > 0, "transfer: ", transfer,
                   " has no tensor whose name and shape fit this network");
  }
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

}  // namespace flowmap::distill
