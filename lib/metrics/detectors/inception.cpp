// The 2015 Inception as detector: FID's 2048 features, the shallower ones of fid64,
// fid192 and fid768, sFID's and the logits of the Inception Score.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "flowmap/base/dtype.h"
#include "flowmap/base/error.h"
#include "flowmap/base/sha256.h"
#include "flowmap/precision.h"
#include "metrics/detectors/inception_weights.h"
#include "metrics/detectors/weights_file.h"
#include "metrics/entries.h"
#include "metrics/resize.h"

namespace flowmap::metrics {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kEdge = 299;
constexpr const char* kWholeFile = "pt_inception-2015-12-05-6726825d.pth";
constexpr const char* kWholeFileRemedy =
    "take the whole file, pt_inception-2015-12-05-6726825d.pth (91 MB, "
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth; its SHA-256 begins with 6726825d), or "
    "NVIDIA's inception-2015-12-05.pt, and pass it as --detector FILE or "
    "FLOWMAP_DETECTOR.";

struct InceptionLayer {
  const char* name;
  int64_t dimensions;
  const char* block;  // that the weights must reach; "" for the stem
  const char* stage;  // InceptionNetwork::Visitor
};
constexpr InceptionLayer kInceptionLayers[] = {
    {"2048", 2048, "mixed_10", "mixed_10"},
    {"768", 768, "mixed_7", "mixed_7"},
    {"192", 192, "", "pool_1"},
    {"64", 64, "", "pool"},
    {"spatial", 2023, "mixed_6", "mixed_6/conv"},  // 17 x 17 of 7 channels: sFID
    {"logits", 1008, "mixed_10", "mixed_10"},
    // Without the bias: what torch-fidelity and NVIDIA take for the Inception Score.
    {"logits_unbiased", 1008, "mixed_10", "mixed_10"},
};

const InceptionLayer* find_inception_layer(std::string_view name) {
  for (const InceptionLayer& layer : kInceptionLayers)
    if (name == layer.name) return &layer;
  return nullptr;
}

bool reaches(const std::string& last_block, std::string_view wanted) {
  if (wanted.empty()) return true;
  for (const char* block : inception_blocks()) {
    if (wanted == block) return !last_block.empty();
    if (last_block == block) return false;
  }
  return false;
}

at::Tensor spatial_mean(const at::Tensor& x) { return x.to(at::kFloat).mean({2, 3}); }

// The true weights give these means and root mean squares on a fixed picture: a number
// from other weights must not bear FID's name.
struct InceptionProbe {
  const char* stage;
  double mean, root_mean_square;
};
constexpr InceptionProbe kInceptionProbe[] = {
    {"pool", 3.0807660, 3.5408446},
    {"pool_1", 3.6701125, 4.0871368},
    {"mixed_7", 0.029599468, 0.085111478}};

at::Tensor probe_picture() {
  const at::Tensor y = at::arange(kEdge).view({1, kEdge, 1});
  const at::Tensor x = at::arange(kEdge).view({1, 1, kEdge});
  const at::Tensor c = at::arange(3).view({3, 1, 1});
  const at::Tensor tile =
      (at::floor_divide(x, 23) + at::floor_divide(y, 31)).remainder(2);
  return (y * 7 + x * 3 + c * 60 + tile * 90).remainder(256).unsqueeze(0);
}

bool probe_agrees(const InceptionNetwork& network, const at::Device& device,
                  double tolerance) {
  bool agrees = true;
  std::size_t next = 0;
  network.run((probe_picture().to(device, at::kFloat) - 128) / 128,
              [&](std::string_view stage, const at::Tensor& output) {
                const InceptionProbe& probe = kInceptionProbe[next];
                if (stage != probe.stage) return true;
                const at::Tensor features = spatial_mean(output).to(at::kDouble);
                const double mean = features.mean().item<double>();
                const double square = features.square().mean().sqrt().item<double>();
                agrees = agrees && std::abs(mean / probe.mean - 1) < tolerance &&
                         std::abs(square / probe.root_mean_square - 1) < tolerance;
                return ++next < std::size(kInceptionProbe);
              });
  return agrees && next > 1;
}

class InceptionDetector final : public Detector {
 public:
  InceptionDetector(const fs::path& path, ResizeMode mode, const at::Device& device,
                    at::ScalarType dtype)
      : path_(path.string()), mode_(mode), checksum_(sha256_file(path)) {
    const InceptionWeights weights = read_inception_weights(path);
    last_block_ = weights.last_block;
    network_ = std::make_unique<InceptionNetwork>(weights, device, dtype);
    if (weights.logits_weight.defined()) {
      logits_weight_ = weights.logits_weight.t().to(device);
      logits_bias_ = weights.logits_bias.to(device);
    }
    const PrecisionGuard precision(device.type(), Precision{});
    const double tolerance = dtype == at::kFloat ? 1e-3 : 3e-2;
    known_ = probe_agrees(*network_, device, tolerance);
  }

  std::string name() const override {
    return known_ ? "inception" : "unknown_inception";
  }
  std::string checksum() const override { return checksum_; }
  std::string mode() const override { return resize_mode_name(mode_); }

  std::vector<FeatureLayer> layers() const override {
    std::vector<FeatureLayer> given;
    for (const InceptionLayer& layer : kInceptionLayers)
      if (gives(layer)) given.push_back({layer.name, layer.dimensions});
    return given;
  }

  std::string why_missing(const std::string& name) const override {
    const InceptionLayer* layer = find_inception_layer(name);
    if (layer == nullptr || gives(*layer)) return "";
    if (reaches(last_block_, layer->block))
      return path_ + " has no logits (fc); " + kWholeFileRemedy;
    const std::string end = last_block_.empty() ? "the stem" : last_block_;
    const bool whole = layer->block == std::string_view("mixed_10");
    return path_ + " ends at " + end + ", " + name + " needs " + layer->block +
           (whole ? " (as do FID and the Inception Score): " : ": ") + kWholeFileRemedy;
  }

  std::vector<at::Tensor> features(const at::Tensor& samples,
                                   std::span<const std::string> layers) override {
    check(samples, layers);
    const PrecisionGuard precision(network_->device().type(), Precision{});
    std::vector<std::vector<at::Tensor>> parts(layers.size());
    // More at once is no faster and costs 20 MB a picture.
    const int64_t most = network_->device().is_cpu() ? 16 : 128;
    for (int64_t begin = 0; begin < samples.size(0); begin += most) {
      const int64_t count = std::min(most, samples.size(0) - begin);
      run(samples.narrow(0, begin, count).to(network_->device()), layers, parts);
    }
    std::vector<at::Tensor> out;
    for (std::size_t i = 0; i < layers.size(); ++i)
      out.push_back(parts[i].empty()
                        ? at::zeros({0, find_inception_layer(layers[i])->dimensions},
                                    at::TensorOptions(network_->device()))
                        : at::cat(parts[i]));
    return out;
  }

 private:
  bool gives(const InceptionLayer& layer) const {
    if (std::string_view(layer.name).starts_with("logits") && !logits_weight_.defined())
      return false;
    return reaches(last_block_, layer.block);
  }

  void check(const at::Tensor& samples, std::span<const std::string> layers) const {
    FM_CHECK_USAGE(samples.dim() == 4 && samples.scalar_type() == at::kByte,
                   "detector inception: takes pictures of bytes, got ",
                   samples.dim() == 2 ? "points; take --metrics kl48"
                                      : shape_text(samples.sizes()));
    FM_CHECK_USAGE(samples.size(1) == 3 || samples.size(1) == 1,
                   "detector inception: takes RGB or gray pictures, these have ",
                   samples.size(1), " channels");
    for (const std::string& name : layers) {
      const InceptionLayer* layer = find_inception_layer(name);
      FM_CHECK_USAGE(layer != nullptr, "detector inception: no layer '", name, "'");
      FM_CHECK_USAGE(gives(*layer), "detector inception: ", why_missing(name));
    }
  }

  void run(const at::Tensor& samples, std::span<const std::string> layers,
           std::vector<std::vector<at::Tensor>>& parts) const {
    const at::Tensor input =
        resize_pictures(samples, mode_, kEdge, kEdge, PixelScale::network);
    std::size_t left = layers.size();
    network_->run(input, [&](std::string_view stage, const at::Tensor& output) {
      for (std::size_t i = 0; i < layers.size(); ++i) {
        const InceptionLayer& layer = *find_inception_layer(layers[i]);
        if (stage != layer.stage) continue;
        parts[i].push_back(of_layer(layer.name, output));
        --left;
      }
      return left > 0;
    });
  }

  at::Tensor of_layer(std::string_view name, const at::Tensor& output) const {
    if (name == "spatial")
      return output.narrow(1, 0, 7).permute({0, 2, 3, 1}).flatten(1).to(at::kFloat);
    at::Tensor mean = spatial_mean(output);
    if (name == "logits") return at::addmm(logits_bias_, mean, logits_weight_);
    return name == "logits_unbiased" ? mean.mm(logits_weight_) : mean;
  }

  std::string path_;
  ResizeMode mode_;
  std::string checksum_, last_block_;
  std::unique_ptr<InceptionNetwork> network_;
  at::Tensor logits_weight_, logits_bias_;  // [2048, 1008]
  bool known_ = false;
};

std::string variable_or(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value && *value ? value : otherwise;
}

// Where pytorch-fid, torch-fidelity, clean-fid and NVIDIA's programs keep it.
std::vector<fs::path> inception_places() {
  const fs::path home = variable_or("HOME", ".");
  const fs::path cache = variable_or("XDG_CACHE_HOME", (home / ".cache").string());
  const fs::path hub =
      fs::path(variable_or("TORCH_HOME", (cache / "torch").string())) / "hub/checkpoints";
  std::vector<fs::path> places{hub / kWholeFile,
                               hub / "weights-inception-2015-12-05-6726825d.pth"};
  std::error_code ignored;
  if (const fs::path temporary = fs::temp_directory_path(ignored); !temporary.empty())
    places.push_back(temporary / "inception-2015-12-05.pt");
  const fs::path downloads =
      fs::path(variable_or("DNNLIB_CACHE_DIR", (home / ".cache/dnnlib").string())) /
      "downloads";
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(downloads, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.find("inception") != std::string::npos &&
        name.find("2015-12-05") != std::string::npos)
      found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  places.insert(places.end(), found.begin(), found.end());
  if (found.empty()) places.push_back(downloads / "*inception*2015-12-05*");
  return places;
}

std::string refuse_for_inception(const fs::path& file) {
  return is_snapshot_file(file) ? "it is a snapshot of ours; a classifier's goes with "
                                  "detector fmnist64"
                                : "";
}

}  // namespace

std::shared_ptr<Detector> make_inception(const Config& options) {
  static const std::vector<std::string> types{"float32", "bf16"};
  const ResizeMode mode = parse_resize_mode(options.string("mode", "edm"), "mode");
  const at::Device device(options.string("device", "cpu"));
  const bool bf16 = options.choice("dtype", types, "float32") == "bf16";
  WeightsSearch search;
  search.detector = "inception";
  search.given = options.string("path", "");
  search.places = inception_places();
  search.remedy = kWholeFileRemedy;
  search.refuses = refuse_for_inception;
  return std::make_shared<InceptionDetector>(find_weights_file(search), mode, device,
                                             bf16 ? at::kBFloat16 : at::kFloat);
}

}  // namespace flowmap::metrics
