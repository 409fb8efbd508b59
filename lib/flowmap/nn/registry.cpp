#include <string>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/network.h"
#include "flowmap/nn/init.h"
#include "flowmap/nn/mlp.h"
#include "flowmap/nn/song_unet.h"

namespace flowmap {

std::shared_ptr<Network> make_adm(const Config&, const NetworkShape&);
std::shared_ptr<Network> make_edm2(const Config&, const NetworkShape&);
std::shared_ptr<Network> make_classifier_cnn(const Config&, const NetworkShape&);
std::shared_ptr<Network> make_dit(const Config&, const NetworkShape&);
std::shared_ptr<Network> make_sit(const Config&, const NetworkShape&);
std::shared_ptr<Network> make_unet2d(const Config&, const NetworkShape&);

const std::vector<NetworkEntry>& network_registry() {
  static const std::vector<NetworkEntry> entries = {
      {"ddpmpp", "U-Net with positional time embedding, plain encoder and decoder",
       "Song et al. 2021 (arXiv 2011.13456), in the form of Karras et al. 2022", make_ddpmpp},
      {"ncsnpp", "U-Net with Fourier time embedding and a residual input pyramid",
       "Song et al. 2021 (arXiv 2011.13456), in the form of Karras et al. 2022", make_ncsnpp},
      {"dit", "transformer on patches, time as an index 0 .. 999",
       "Peebles & Xie 2023 (arXiv 2212.09748)", make_dit},
      {"sit", "transformer on patches, time in [0, 1]",
       "Ma et al. 2024 (arXiv 2401.08740)", make_sit},
      {"adm", "U-Net with adaptive group norms and heads of 64 channels",
       "Dhariwal and Nichol 2021 (arXiv 2105.05233), in the form of Karras et al. 2022",
       make_adm},
      {"edm2", "magnitude-preserving U-Net with forced weight normalisation",
       "Karras et al. 2024 (arXiv 2312.02696)", make_edm2},
      {"unet2d", "U-Net of DDPM as diffusers' UNet2DModel, time as an index 0 .. 999",
       "Ho et al. 2020 (arXiv 2006.11239)", make_unet2d},
      {"mlp", "perceptron on points, raw times",
       "Boffi et al. 2025 (arXiv 2505.18825), section 5.1", make_mlp},
      {"classifier_cnn", "small classifier of images, for feature detectors", "",
       make_classifier_cnn},
  };
  return entries;
}

std::shared_ptr<Network> build_network(const Config& options, const NetworkShape& shape) {
  std::vector<std::string> names;
  for (const NetworkEntry& entry : network_registry()) names.emplace_back(entry.name);
  const std::string type = options.choice("type", names);
  for (const NetworkEntry& entry : network_registry())
    if (type == entry.name) return entry.make(options, shape);
  throw Error("network_registry: no entry " + type);
}

}  // namespace flowmap
