#include "flowmap/train/ema.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap {
namespace {
const std::string kPowerText = "power=";
constexpr std::string_view kReconstructed = " (reconstructed)";
}  // namespace

double power_exponent(double std) {
  FM_CHECK(std > 0 && std < 0.2886, "power profile: std ", std,
           " is outside (0, 0.2886)");
  // std falls with g on [0, inf); bisection on log(1+g) is exact to the last bits.
  double low = 0, high = 1;
  const auto deviation = [](double g) {
    return std::sqrt((g + 1) / ((g + 2) * (g + 2) * (g + 3)));
  };
  while (deviation(high) > std) high *= 2;
  for (int i = 0; i < 200; ++i) {
    const double middle = 0.5 * (low + high);
    (deviation(middle) > std ? low : high) = middle;
  }
  return 0.5 * (low + high);
}

double EmaProfile::beta(int64_t images_before, int64_t batch, int64_t step) const {
  switch (rule) {
    case Rule::halflife: {
      double images = halflife;
      if (rampup > 0)
        images = std::min(images, static_cast<double>(images_before) * rampup);
      return std::pow(0.5, static_cast<double>(batch) / std::max(images, 1e-8));
    }
    case Rule::power: {
      const double after = static_cast<double>(images_before + batch);
      return std::pow(1 - static_cast<double>(batch) / after, power_exponent(std) + 1);
    }
    case Rule::constant: {
      const double k = static_cast<double>(step) + 1;  // 1 at the first update
      return warmup ? std::min(decay, (1 + k) / (10 + k)) : decay;
    }
  }
  return 0;
}

std::string EmaProfile::text() const {
  switch (rule) {
    case Rule::halflife: return format("halflife=%.0f,rampup=%g", halflife, rampup);
    case Rule::power: return kPowerText + power_std_text(std);
    case Rule::constant: return format("constant=%g%s", decay, warmup ? ",warmup" : "");
  }
  return {};
}

std::string EmaProfile::tag() const {
  switch (rule) {
    case Rule::halflife:
      return std::fmod(halflife, 1000) == 0 ? format("h%.0fk", halflife / 1000)
                                            : format("h%.0f", halflife);
    case Rule::power: return power_std_text(std);
    case Rule::constant: return format("%g", decay);
  }
  return {};
}

std::string power_std_text(double std) {
  const std::string three = format("%.3f", std);
  return parse_double(three, "std") == std ? three : format("%.10g", std);
}

std::string reconstructed_text(double std) {
  return kPowerText + power_std_text(std) + std::string(kReconstructed);
}

std::optional<double> power_std_of_text(std::string_view text) {
  if (!text.starts_with(kPowerText) || text.ends_with(kReconstructed)) return {};
  return parse_double(text.substr(kPowerText.size()), "power profile");
}

std::vector<EmaProfile> read_ema_profiles(const Config& trainer) {
  std::vector<EmaProfile> profiles;
  const std::vector<std::string> rules = {"halflife", "power", "constant"};
  for (const Config& entry : trainer.children("ema")) {
    EmaProfile profile;
    const std::string rule = entry.choice("type", rules, "halflife");
    if (rule == "halflife") {
      profile.halflife = static_cast<double>(entry.count("images", 0, 500000));
      profile.rampup = entry.number("rampup", 0.05, 0, 1);
    } else if (rule == "power") {
      profile.rule = EmaProfile::Rule::power;
      profile.std = entry.number("std", 0.1, 1e-3, 0.288);
    } else {
      profile.rule = EmaProfile::Rule::constant;
      profile.decay = entry.number("decay", 0.9999, 0, 1);
      profile.warmup = entry.boolean("warmup", true);
    }
    for (const EmaProfile& other : profiles)
      FM_CHECK_USAGE(other.tag() != profile.tag(), entry.where("type"),
                     ": trainer.ema: two profiles would be saved under the name '",
                     profile.tag(), "'; make them differ in images, std or decay");
    profiles.push_back(profile);
  }
  if (profiles.empty()) profiles.emplace_back();
  return profiles;
}

Ema::Ema(EmaProfile profile, const std::vector<NamedTensor>& parameters)
    : profile_(profile) {
  for (const NamedTensor& p : parameters)
    averages_.push_back({p.name, p.tensor.detach().clone()});
}

void Ema::update(const std::vector<NamedTensor>& parameters, int64_t images_before,
                 int64_t batch, int64_t step) {
  const at::NoGradGuard no_grad;
  const double beta = profile_.beta(images_before, batch, step);
  for (std::size_t i = 0; i < averages_.size(); ++i)
    averages_[i].tensor.lerp_(parameters[i].tensor.detach(), 1 - beta);
}

std::map<std::string, at::Tensor> Ema::state() const {
  std::map<std::string, at::Tensor> state;
  for (const NamedTensor& a : averages_) state[a.name] = a.tensor;
  return state;
}

void Ema::load_state(const std::map<std::string, at::Tensor>& state) {
  const at::NoGradGuard no_grad;
  for (NamedTensor& a : averages_) {
    const auto found = state.find(a.name);
    FM_CHECK(found != state.end(), "EMA state lacks '", a.name, "'");
    FM_CHECK(found->second.sizes() == a.tensor.sizes(), "EMA state '", a.name,
             "' has another shape than the parameter");
    a.tensor.copy_(found->second);
  }
}

}  // namespace flowmap
