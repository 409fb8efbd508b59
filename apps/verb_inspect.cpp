#include <CLI/CLI.hpp>
#include <cstdio>
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
#include "flowmap/base/npy.h"
#include "flowmap/base/safetensors.h"
#include "flowmap/base/text.h"
#include "flowmap/preconditioning.h"

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
};

FileContent read_content(const std::string& path) {
  FileContent content;
  if (ends_with_ignoring_case(path, ".npz")) {
    content.kind = "npz";
    for (const auto& [name, tensor] : read_npz(path)) {
      content.tensors.push_back({name, tensor.dtype, tensor.shape});
      content.parameters += tensor.numel();
    }
    return content;
  }
  if (ends_with_ignoring_case(path, ".zip"))
    throw UsageError(path + ": a ZIP of pictures is read by 'flowmap train --data' and "
                     "'flowmap fid'; inspect takes .safetensors and .npz");
  const SafetensorsReader reader(path);
  content.metadata = reader.metadata();
  content.kind = content.metadata.count("flowmap") ? "flowmap snapshot" : "safetensors";
  for (const SafetensorsEntry& entry : reader.entries())
    content.tensors.push_back({entry.name, entry.dtype, entry.shape});
  if (const auto spec = content.metadata.find("spec");
      spec != content.metadata.end() && content.metadata.count("flowmap")) {
    const auto model = build_model(Config::from_text(spec->second, path + ":spec"));
    content.parameters = parameter_count(*model);
    content.multiply_adds = model->multiply_adds();
  } else {
    for (const TensorLine& tensor : content.tensors) content.parameters += tensor.numel();
  }
  return content;
}

// JSON texts become JSON; others stay strings.
json metadata_value(const std::string& text) {
  if (!text.empty() && (text.front() == '{' || text.front() == '[')) {
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
  std::puts("");
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
  CLI::App app("What a snapshot, a safetensors file or an npz holds: architecture, "
               "parameter count, tensors, metadata, run history.",
               "flowmap inspect");
  std::string path;
  bool as_json = false;
  app.add_option("FILE", path, ".safetensors or .npz")->required();
  app.add_flag("--json", as_json, "machine-readable");
  app.footer("\nExample: flowmap inspect models/student.safetensors");
  if (!parse_arguments(app, arguments)) return 0;
  require_file(path, "FILE");
  const FileContent content = read_content(path);
  if (as_json)
    std::puts(content_as_json(content)
                  .dump(2, ' ', false, json::error_handler_t::replace)
                  .c_str());
  else
    print_content(path, content);
  return 0;
}

}  // namespace flowmap::apps
