// SlimFlow (and the NCSN++ of score_sde that it is): "all_modules.N" in the order in which
// the network was built. It is EDM's SongUNet under other names: three NINs interleave into
// qkv, and times are 999 t.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/weights/json_spec.h"

namespace flowmap {
namespace {

using nlohmann::json;

enum class ModuleKind { fourier, linear, conv, block, attention, norm };

struct NumberedModule {
  ModuleKind kind;
  std::string name;  // "all_modules.3."
  int64_t in = 0, out = 0;
  bool has_skip = false;
};

bool is_slimflow(const WeightSource& source) {
  return has_weight(source, "all_modules.0.weight") || has_weight(source, "all_modules.0.W");
}

NumberedModule describe_module(const WeightSource& source, int64_t number) {
  NumberedModule m;
  m.name = "all_modules." + std::to_string(number) + ".";
  const auto size = [&](const char* part, int64_t dim) {
    return weight_size(source, m.name + part, dim);
  };
  if (has_weight(source, m.name + "Conv_0.weight")) {
    m.kind = ModuleKind::block;
    m.out = size("Conv_0.weight", 0);
    m.in = size("Conv_0.weight", 1);
    m.has_skip = has_weight(source, m.name + "Conv_2.weight");
  } else if (has_weight(source, m.name + "NIN_0.W")) {
    m.kind = ModuleKind::attention;
    m.in = m.out = size("NIN_0.W", 0);
  } else if (has_weight(source, m.name + "W")) {
    m.kind = ModuleKind::fourier;
    m.out = 2 * size("W", 0);
  } else {
    const at::Tensor& weight = weight_at(source, m.name + "weight");
    if (weight.dim() != 1 && weight.dim() != 2 && weight.dim() != 4)
      throw DataError(source.path.string(), {},
                      "a linear layer, a convolution or a norm at " + m.name,
                      shape_text(weight.sizes()));
    m.kind = weight.dim() == 1   ? ModuleKind::norm
             : weight.dim() == 2 ? ModuleKind::linear
                                 : ModuleKind::conv;
    m.out = size("weight", 0);
    m.in = weight.dim() > 1 ? size("weight", 1) : m.out;
  }
  return m;
}

// A place in the U-Net that a module must fill.
struct Slot {
  ModuleKind kind;
  std::string name;  // of ours, "enc.0_block1"; the level stands for the size
  bool resamples = false;
};

// Blocks in the order of construction, levels numbered from the top; `attends` by level.
std::vector<Slot> slots_of(int64_t levels, int64_t blocks, const std::set<int64_t>& attends) {
  std::vector<Slot> slots;
  const auto add = [&](int64_t level, const char* side, const std::string& what,
                       bool attention, bool resamples = false) {
    const std::string name = std::string(side) + std::to_string(level) + what;
    slots.push_back({ModuleKind::block, name, resamples});
    if (attention) slots.push_back({ModuleKind::attention, name});
  };
  for (int64_t level = 0; level < levels; ++level) {
    if (level > 0) add(level, "enc.", "_down", false, true);
    for (int64_t i = 0; i < blocks; ++i)
      add(level, "enc.", "_block" + std::to_string(i), attends.contains(level));
  }
  for (int64_t level = levels - 1; level >= 0; --level) {
    if (level == levels - 1) {
      add(level, "dec.", "_in0", true);
      add(level, "dec.", "_in1", false);
    } else {
      add(level, "dec.", "_up", false, true);
    }
    for (int64_t i = 0; i <= blocks; ++i)
      add(level, "dec.", "_block" + std::to_string(i),
          i == blocks && attends.contains(level));
  }
  return slots;
}

struct Unrolled {
  int64_t levels = 0, blocks = 0;
  std::set<int64_t> attends;
  std::vector<Slot> slots;
};

// A block keeps its skip weight exactly where it resamples or changes its width.
bool fits(const std::vector<Slot>& slots, const std::vector<NumberedModule>& body) {
  if (slots.size() != body.size()) return false;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i].kind != body[i].kind) return false;
    if (slots[i].kind == ModuleKind::block &&
        body[i].has_skip != (slots[i].resamples || body[i].in != body[i].out))
      return false;
  }
  return true;
}

// Levels, blocks and attention levels that give this row of modules.
Unrolled unroll(const WeightSource& source, const std::vector<NumberedModule>& body) {
  const auto count = static_cast<int64_t>(
      std::count_if(body.begin(), body.end(),
                    [](const auto& m) { return m.kind == ModuleKind::block; }));
  for (int64_t levels = 1; levels <= 8; ++levels) {
    // levels (2 blocks + 1), two in the middle, and 2 (levels - 1) that resample.
    const int64_t rest = count - levels - 2 * levels;
    if (rest <= 0 || rest % (2 * levels) != 0) continue;
    const int64_t blocks = rest / (2 * levels);
    for (int64_t mask = 0; mask < int64_t{1} << levels; ++mask) {
      Unrolled u{levels, blocks, {}, {}};
      for (int64_t level = 0; level < levels; ++level)
        if (mask >> level & 1) u.attends.insert(level);
      u.slots = slots_of(levels, blocks, u.attends);
      if (fits(u.slots, body)) return u;
    }
  }
  throw DataError(source.path.string(), {},
                  "the blocks of an NCSN++ without input or output pyramid",
                  std::to_string(count) + " blocks that form none");
}

at::Tensor as_1x1(const at::Tensor& nin) {  // [in, out] -> [out, in, 1, 1]
  return nin.t().contiguous().unsqueeze(-1).unsqueeze(-1);
}

// q, k, v [C, ...] -> [3 C, ...], channel 3 c + {0, 1, 2}.
at::Tensor interleave(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::stack({q, k, v}, 1).flatten(0, 1).contiguous();
}

void take_pair(const WeightSource& source, TensorMap& out, const std::string& theirs,
               const std::string& ours) {
  for (const char* part : {".weight", ".bias"})
    out[ours + part] = weight_at(source, theirs + part);
}

void take_module(const WeightSource& source, TensorMap& out, const NumberedModule& m,
                 const Slot& slot, const std::string& ours) {
  if (slot.kind == ModuleKind::attention) {
    take_pair(source, out, m.name + "GroupNorm_0", ours + ".norm2");
    const auto nin = [&](int i, const char* part) -> const at::Tensor& {
      return weight_at(source, m.name + "NIN_" + std::to_string(i) + "." + part);
    };
    out[ours + ".qkv.weight"] =
        interleave(as_1x1(nin(0, "W")), as_1x1(nin(1, "W")), as_1x1(nin(2, "W")));
    out[ours + ".qkv.bias"] = interleave(nin(0, "b"), nin(1, "b"), nin(2, "b"));
    out[ours + ".proj.weight"] = as_1x1(nin(3, "W"));
    out[ours + ".proj.bias"] = nin(3, "b");
    return;
  }
  take_pair(source, out, m.name + "GroupNorm_0", ours + ".norm0");
  take_pair(source, out, m.name + "Conv_0", ours + ".conv0");
  take_pair(source, out, m.name + "Dense_0", ours + ".affine");
  take_pair(source, out, m.name + "GroupNorm_1", ours + ".norm1");
  take_pair(source, out, m.name + "Conv_1", ours + ".conv1");
  if (m.has_skip) take_pair(source, out, m.name + "Conv_2", ours + ".skip");
}

ImportedWeights read_slimflow(const WeightSource& source, const ImportHints& hints) {
  std::vector<NumberedModule> modules;
  for (int64_t n = 0; n < count_numbered(source, "all_modules."); ++n)
    modules.push_back(describe_module(source, n));
  const auto expect = [&](std::size_t at, ModuleKind kind, const char* what) -> const auto& {
    if (at >= modules.size() || modules[at].kind != kind)
      throw DataError(source.path.string(), {},
                      std::string(what) + " at all_modules." + std::to_string(at),
                      at < modules.size() ? "another module" : "nothing");
    return modules[at];
  };
  std::size_t next = 0;
  const bool fourier = !modules.empty() && modules[0].kind == ModuleKind::fourier;
  if (fourier) ++next;
  const NumberedModule& first = expect(next++, ModuleKind::linear, "a linear layer");
  const NumberedModule& second = expect(next++, ModuleKind::linear, "a linear layer");
  const NumberedModule& stem = expect(next++, ModuleKind::conv, "the first convolution");
  if (modules.size() < next + 2)
    throw DataError(source.path.string(), {}, "the modules of an NCSN++",
                    std::to_string(modules.size()) + " of them");
  const std::size_t end = modules.size() - 2;
  const NumberedModule& norm = expect(end, ModuleKind::norm, "the last norm");
  const NumberedModule& head = expect(end + 1, ModuleKind::conv, "the last convolution");
  const std::vector<NumberedModule> body(modules.begin() + static_cast<std::ptrdiff_t>(next),
                                         modules.begin() + static_cast<std::ptrdiff_t>(end));
  const Unrolled u = unroll(source, body);

  // The size of the image is nowhere in the weights.
  const json given = json::parse(with_hints("{}", hints));
  const json shape = given.value("sample_shape", json());
  const bool told = shape.is_array() && shape.size() == 3 && shape[1].is_number_integer();
  const int64_t size = told ? shape[1].get<int64_t>() : 32;
  const auto level_name = [&](int64_t level) {
    const std::string text = std::to_string(size >> level);
    return text + "x" + text;
  };
  json network = {{"type", "ddpmpp"},
                  {"model_channels", stem.out},
                  {"num_blocks", u.blocks},
                  {"embedding_type", fourier ? "fourier" : "positional"},
                  {"channel_mult_noise", first.in / stem.out},
                  {"channel_mult_emb", first.out / stem.out},
                  {"channel_mult", json::array()},
                  {"attn_resolutions", json::array()}};
  for (const int64_t level : u.attends) network["attn_resolutions"].push_back(size >> level);
  ImportedWeights result;
  if (!told) result.assumed.emplace_back("images of 32x32 (else: --arch-options "
                                         "sample_shape=[C,H,W])");
  const auto name_of = [&](const Slot& slot) {
    const std::size_t digits = slot.name.find('.') + 1, bar = slot.name.find('_');
    const int64_t level = std::stoll(slot.name.substr(digits, bar - digits));
    return "model." + slot.name.substr(0, digits) + level_name(level) +
           slot.name.substr(bar);
  };
  for (std::size_t i = 0; i < body.size(); ++i) {
    take_module(source, result.tensors, body[i], u.slots[i], name_of(u.slots[i]));
    if (u.slots[i].name.starts_with("enc.") && u.slots[i].name.ends_with("_block0") &&
        u.slots[i].kind == ModuleKind::block)
      network["channel_mult"].push_back(body[i].out / stem.out);
  }
  if (fourier) result.tensors["model.map_noise.freqs"] = weight_at(source, modules[0].name + "W");
  const auto take = [&](const NumberedModule& m, const std::string& ours) {
    for (const char* part : {"weight", "bias"})
      result.tensors["model." + ours + "." + part] = weight_at(source, m.name + part);
  };
  take(first, "map_layer0");
  take(second, "map_layer1");
  take(stem, "enc." + level_name(0) + "_conv");
  take(norm, "dec." + level_name(0) + "_aux_norm");
  take(head, "dec." + level_name(0) + "_aux_conv");
  json spec = {{"network", network},
               {"preconditioning", {{"type", "flow"}, {"time_scale", 999}}},
               {"sample_shape", {stem.in, size, size}},
               {"label_dim", 0}};
  result.spec_json = with_hints(spec.dump(), hints);
  return result;
}

}  // namespace

extern const WeightLayout kSlimflowLayout;
const WeightLayout kSlimflowLayout = {
    "slimflow", "SlimFlow and other NCSN++ of score_sde: numbered modules", is_slimflow,
    read_slimflow, nullptr, nullptr};

}  // namespace flowmap
