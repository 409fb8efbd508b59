#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "apps/run_options.h"
#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/formats/npy.h"
#include "flowmap/base/text.h"
#include "flowmap/nn/init.h"
#include "flowmap/preconditioning.h"
#include "flowmap/tensor_io.h"
#include "flowmap/weights/layout.h"

namespace flowmap::apps {
namespace {

using nlohmann::json;

struct TensorLine {
  std::string name;
  DType dtype;
  std::vector<std::int64_t> shape;
  std::int64_t numel() const {
    return std::accumulate(shape.begin(), shape.end(), std::int64_t{1},
                           std::multiplies<>());
  }
};

struct FileContent {
  std::string kind;
  std::vector<TensorLine> tensors;
  std::map<std::string, std::string> metadata;
  std::int64_t parameters = 0;  // without buffers, where the architecture is known
  double multiply_adds = 0;     // of one forward for one sample; 0: unknown
  std::string layout;           // whose names these are; "": unknown
  std::string unknown;          // why
  std::vector<std::string> assumed;
};

// What the tensors are, where a layout knows them; unknown ones are only listed.
void describe_network(const WeightSource& source, const LoadOptions& options,
                      FileContent& content) {
  try {
    const ImportedWeights weights = import_weights(source, options.hints);
    const ShapesOnly shapes;
    const auto model = build_model(
        Config::from_text(weights.spec_json, source.path.string() + ":spec"));
    content.parameters = parameter_count(*model);
    content.multiply_adds = model->multiply_adds();
    content.metadata["spec"] = weights.spec_json;
    content.layout = weights.layout;
    content.assumed = weights.assumed;
  } catch (const UsageError& error) {
    content.unknown = error.what();
  } catch (const DataError& error) {
    content.unknown = error.what();
  }
}

FileContent read_content(const NetworkFlags& flags) {
  const std::string& path = flags.network;
  FileContent content;
  if (ends_with_ignoring_case(path, ".npz")) {
    content.kind = "npz";
    for (const auto& [name, tensor] : read_npz(path)) {
      content.tensors.push_back({name, tensor.dtype, tensor.shape});
      content.parameters += tensor.numel();
    }
    return content;
  }
  const LoadOptions options = load_options(flags);
  const WeightSource source = open_weights(path, options.key);
  content.kind = source.metadata.count("flowmap") ? "flowmap snapshot" : source.format;
  content.metadata = source.metadata;
  if (!source.key.empty()) content.metadata["key"] = source.key;
  if (!source.other_keys.empty())
    content.metadata["other keys"] = join(source.other_keys, ", ");
  if (!source.config_json.empty()) content.metadata["config"] = source.config_json;
  for (const auto& [name, tensor] : source.tensors) {
    content.tensors.push_back(
        {name, file_dtype(tensor.scalar_type()), tensor.sizes().vec()});
    content.parameters += tensor.numel();
  }
  describe_network(source, options, content);
  return content;
}

// JSON texts become JSON; others stay strings, and what is nested so deeply that a walk
// through it could end the program.
json metadata_value(const std::string& text) {
  constexpr std::ptrdiff_t kMostNesting = 64;
  std::ptrdiff_t depth = 0, deepest = 0;
  for (const char c : text) {
    if (c == '{' || c == '[') deepest = std::max(deepest, ++depth);
    if (c == '}' || c == ']') --depth;
  }
  if (!text.empty() && deepest <= kMostNesting && (text.front() == '{' || text.front() == '[')) {
    json parsed = json::parse(text, nullptr, false);
    if (!parsed.is_discarded()) return parsed;
  }
  return text;
}

json content_as_json(const FileContent& content) {
  json root;
  root["kind"] = content.kind;
  root["parameters"] = content.parameters;
  if (content.multiply_adds > 0) root["multiply_adds"] = content.multiply_adds;
  if (!content.layout.empty()) root["layout"] = content.layout;
  if (!content.unknown.empty()) root["unknown"] = content.unknown;
  if (!content.assumed.empty()) root["assumed"] = content.assumed;
  root["metadata"] = json::object();
  for (const auto& [key, text] : content.metadata)
    root["metadata"][key] = metadata_value(text);
  root["tensors"] = json::array();
  for (const TensorLine& tensor : content.tensors)
    root["tensors"].push_back({{"name", tensor.name},
                               {"dtype", std::string(dtype_name(tensor.dtype))},
                               {"shape", tensor.shape}});
  return root;
}

std::string grouped_digits(std::int64_t number) {
  std::string text = std::to_string(number);
  for (auto at = static_cast<std::ptrdiff_t>(text.size()) - 3; at > 0; at -= 3)
    text.insert(static_cast<std::size_t>(at), ",");
  return text;
}

void print_content(const std::string& path, const FileContent& content) {
  std::printf("%s: %s\n%s parameters in %zu tensors", path.c_str(), content.kind.c_str(),
              grouped_digits(content.parameters).c_str(), content.tensors.size());
  if (content.multiply_adds > 0)
    std::printf(", %.4g million multiply-adds a sample", content.multiply_adds / 1e6);
  if (!content.layout.empty()) std::printf(", names of %s", content.layout.c_str());
  std::puts("");
  for (const std::string& what : content.assumed)
    std::printf("assumed: %s\n", what.c_str());
  if (!content.unknown.empty())
    std::printf("no network that can be run: %s\n", content.unknown.c_str());
  if (!content.metadata.empty()) std::puts("\nmetadata");
  for (const auto& [key, text] : content.metadata) {
    const json value = metadata_value(text);
    if (!value.is_object()) {
      std::printf("  %s: %s\n", key.c_str(), text.c_str());
      continue;
    }
    std::printf("  %s:\n", key.c_str());
    // A nested object a line: a specification is small.
    for (const auto& [name, inner] : value.items())
      std::printf("    %s: %s\n", name.c_str(),
                  inner.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
  }
  std::puts("\ntensors");
  for (const TensorLine& tensor : content.tensors)
    std::printf("  %-56s %-4s %s\n", tensor.name.c_str(),
                std::string(dtype_name(tensor.dtype)).c_str(),
                shape_text(tensor.shape).c_str());
}

}  // namespace

int run_inspect(std::span<const std::string> arguments) {
  CLI::App app("What a file of weights or an npz holds: architecture, parameter count, "
               "tensors, metadata, run history. Nothing in it is executed.",
               "flowmap inspect");
  NetworkFlags flags;
  bool as_json = false;
  add_network_flags(app, flags, "FILE");
  app.add_flag("--json", as_json, "machine-readable");
  app.footer("\nExample: flowmap inspect models/student.safetensors");
  if (!parse_arguments(app, arguments)) return 0;
  const std::string& path = flags.network;
  require_network(flags, "FILE");
  const FileContent content = read_content(flags);
  if (as_json)
    std::puts(content_as_json(content)
                  .dump(2, ' ', false, json::error_handler_t::replace)
                  .c_str());
  else
    print_content(path, content);
  return 0;
}

}  // namespace flowmap::apps
