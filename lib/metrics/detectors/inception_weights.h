// Weights of the 2015 Inception from the files that other programs have of it.
#pragma once

#include <filesystem>

#include "metrics/detectors/inception_network.h"

namespace flowmap::metrics {

// By content, whatever the name:
//   - torch.save of pytorch-fid's and torch-fidelity's network
//     (pt_inception-2015-12-05-*.pth): torchvision's names, batch norm apart (epsilon
//     1e-3), "fc" of 1008; "AuxLogits" is passed over;
//   - NVIDIA's TorchScript archive or pickle (inception-2015-12-05.pt, .pkl):
//     layers.conv.{weight,beta,mean,var}, "output" of 1008. The program in it is not run;
//   - safetensors or torch.save under TensorFlow's scopes with '_' for '/': conv.weight,
//     conv.bias, ..., batch norm folded in, "logits" where it is there.
// The file may end after any block; then so do the features. Throws DataError naming file
// and tensor: no such network, a block in part, a wrong shape, not finite.
InceptionWeights read_inception_weights(const std::filesystem::path& path);

// Whether the file opens and has the first convolution; nothing else is looked at.
bool holds_inception(const std::filesystem::path& path);

}  // namespace flowmap::metrics
