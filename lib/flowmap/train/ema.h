// Exponential moving averages of weights: the profiles in use, and their update.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "flowmap/base/config.h"
#include "flowmap/train/optimizer.h"

namespace flowmap {

// A rule for the decay of one average.
struct EmaProfile {
  enum class Rule {
    halflife,  // EDM: half-life in images, ramped up with the images seen
    power,     // EDM2 (Karras et al. 2024, section 3.1): power function of relative std
    constant   // decay per step, optionally min(decay, (1+k)/(10+k))
  };
  Rule rule = Rule::halflife;
  double halflife = 500000;  // images
  double rampup = 0.05;      // half-life is at most rampup * images seen; 0: no ramp
  double std = 0.1;          // relative standard deviation of the power profile
  double decay = 0.9999;     // constant rule
  bool warmup = true;        // constant rule: ramp by steps

  // Weight of the old average in this update. `images_before`: seen before the step;
  // `step`: optimiser steps done before this one.
  double beta(int64_t images_before, int64_t batch, int64_t step) const;
  // "halflife=500000,rampup=0.05", "power=0.100" (more digits where there are more),
  // "constant=0.999,warmup": metadata.
  std::string text() const;
  // For file names where several profiles are kept: "h500k" ("h1500" where images are no
  // multiple of 1000), "0.100", "0.999".
  std::string tag() const;
};

// Exponent of the power profile with relative standard deviation std: the root of
// std = sqrt((g+1) / ((g+2)^2 (g+3))) (Karras et al. 2024, eq. 126).
double power_exponent(double std);

// std with the three digits of EDM2's file names, and more where it has more: "0.100",
// "0.0125".
std::string power_std_text(double std);
// "power=0.150 (reconstructed)": metadata of an average that train/phema.h made.
std::string reconstructed_text(double std);
// std of a power profile out of its text(); nothing for the texts of other rules, and of
// averages that were reconstructed.
std::optional<double> power_std_of_text(std::string_view text);

// "ema": a list of {"type": "halflife" | "power" | "constant", ...}; default one
// half-life profile of 500,000 images. Throws UsageError where two have one tag.
std::vector<EmaProfile> read_ema_profiles(const Config& trainer);

// The averages of one player under one profile.
class Ema {
 public:
  Ema(EmaProfile profile, const std::vector<NamedTensor>& parameters);
  void update(const std::vector<NamedTensor>& parameters, int64_t images_before,
              int64_t batch, int64_t step);
  const EmaProfile& profile() const { return profile_; }
  const std::vector<NamedTensor>& averages() const { return averages_; }
  std::map<std::string, at::Tensor> state() const;
  void load_state(const std::map<std::string, at::Tensor>& state);

 private:
  EmaProfile profile_;
  std::vector<NamedTensor> averages_;
};

}  // namespace flowmap
