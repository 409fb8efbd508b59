#include "samplers/boss/cost_file.h"

#include <ATen/ATen.h>

#include <set>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/tensor_io.h"

namespace flowmap::samplers {
namespace {

constexpr const char* kCostFormat = "flowmap-costs 1";

std::vector<double> doubles_of(const at::Tensor& tensor) {
  const at::Tensor values = tensor.to(at::kDouble).contiguous();
  const double* const data = values.const_data_ptr<double>();
  return {data, data + values.numel()};
}

}  // namespace

void CostFile::merge(const CostFile& other, const std::string& name,
                     const std::string& other_name) {
  require_same_settings(settings, other, other_name + " (beside " + name + ")");
  const std::set<std::int64_t> mine(seeds.begin(), seeds.end());
  for (const std::int64_t seed : other.seeds)
    FM_CHECK_USAGE(!mine.contains(seed), "seed ", seed, " is in both ", name, " and ",
                   other_name, "; a sample counts once");
  sums.merge(other.sums);
  seeds.insert(seeds.end(), other.seeds.begin(), other.seeds.end());
}

void require_same_settings(const std::map<std::string, std::string>& wanted,
                           const CostFile& file, const std::string& name) {
  for (const auto& [key, value] : wanted) {
    const auto found = file.settings.find(key);
    const std::string theirs = found == file.settings.end() ? "nothing" : found->second;
    FM_CHECK_USAGE(theirs == value, name, ": made with another ", key, " (", theirs,
                   "), not ", value, "; these costs cannot be added");
  }
}

void write_cost_file(const std::filesystem::path& path, const CostFile& file) {
  std::map<std::string, at::Tensor> tensors{
      {"anchors", at::tensor(file.sums.anchors(), at::kDouble)},
      {"scale", at::tensor(file.sums.scale(), at::kDouble)},
      {"squared", file.sums.squared_sum()},
      {"norm", file.sums.norm_sum()},
      {"seeds", at::tensor(file.seeds, at::kLong)}};
  if (file.sums.has_carried()) tensors["carried"] = file.sums.carried_sum();
  std::map<std::string, std::string> metadata{{"format", kCostFormat}};
  for (const auto& [key, value] : file.settings) metadata["setting/" + key] = value;
  save_tensors(path, tensors, metadata);
}

CostFile read_cost_file(const std::filesystem::path& path) {
  const SafetensorsReader reader(path);
  const auto& metadata = reader.metadata();
  const auto stated = metadata.find("format");
  if (stated == metadata.end() || stated->second != kCostFormat)
    throw DataError(path.string(), {},
                    std::string("costs of 'flowmap boss search' (format ") + kCostFormat +
                        ")",
                    "something else");
  CostFile file;
  for (const auto& [key, value] : metadata)
    if (key.starts_with("setting/")) file.settings[key.substr(8)] = value;
  const std::vector<double> anchors = doubles_of(read_tensor(reader, "anchors"));
  const std::vector<double> scale = doubles_of(read_tensor(reader, "scale"));
  const auto n = static_cast<int64_t>(anchors.size());
  const auto square = [&](const char* name) {
    const at::Tensor tensor = read_tensor(reader, name);
    if (tensor.dim() != 2 || tensor.size(0) != n || tensor.size(1) != n || n < 2 ||
        !tensor.isfinite().all().item<bool>())
      throw DataError(path.string(), {}, std::string("'") + name +
                      "' finite, a row and a column for every anchor",
                      "something else");
    return tensor.to(at::kDouble);
  };
  const at::Tensor seeds = read_tensor(reader, "seeds").to(at::kLong).contiguous();
  const int64_t* const data = seeds.const_data_ptr<int64_t>();
  file.seeds.assign(data, data + seeds.numel());
  const at::Tensor carried =
      reader.find("carried") != nullptr ? square("carried") : at::Tensor();
  file.sums = CostSums::from_sums(anchors, scale, seeds.numel(), square("squared"),
                                  square("norm"), carried);
  return file;
}

}  // namespace flowmap::samplers
