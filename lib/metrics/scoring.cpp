#include "metrics/scoring.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace flowmap::metrics {
namespace {

std::string layer_names(const Detector& detector) {
  std::vector<std::string> names;
  for (const FeatureLayer& layer : detector.layers()) names.push_back(layer.name);
  return join(names, ", ");
}

FeatureLayer layer_of_detector(const Detector& detector, const Scorer::Asked& asked) {
  const std::vector<FeatureLayer> layers = detector.layers();
  if (asked.layer.empty()) return layers.front();
  for (const FeatureLayer& layer : layers)
    if (layer.name == asked.layer) return layer;
  const std::string why = detector.why_missing(asked.layer);
  std::string remedy;
  // The same metric of a layer that there is.
  if (asked.number.empty())
    for (const FeatureLayer& layer : layers)
      if (layer.name == "768") remedy = "; take --metrics " + asked.stem + "768";
  throw UsageError("metric " + asked.name + ": detector " + detector.name() + " gives no " +
                   "layer " + asked.layer + ", only " + layer_names(detector) +
                   (why.empty() ? "" : "; " + why) + remedy);
}

Scorer::Asked ask(const std::string& name, const Detector& detector) {
  Scorer::Asked asked;
  asked.name = name;
  std::size_t stem = name.size();
  while (stem > 0 && std::isdigit(static_cast<unsigned char>(name[stem - 1])) != 0) --stem;
  asked.stem = name.substr(0, stem);
  asked.number = name.substr(stem);
  asked.metric = make_metric(name, Config());
  const std::string wants = asked.metric->detector();
  FM_CHECK_USAGE(wants.empty() || wants == detector.name() ||
                     (wants == "inception" && is_unknown_inception(detector)),
                 "metric ", name, " is a number of detector ", wants, "; over ",
                 detector.name(), " take ",
                 asked.stem == "fid"   ? "fd"
                 : asked.stem == "kid" ? "kd"
                 : asked.stem == "is"  ? "cs"
                                       : "another metric (fd, kd, pr)");
  asked.layer = asked.metric->layer();
  return asked;
}

// What a name without a number stands for, where the name of a result must say it.
std::string number_of(const Scorer::Asked& asked) {
  if (!asked.number.empty()) return asked.number;
  return asked.stem == "pr" ? "3" : asked.stem == "prdc" ? "5" : "";  // neighbours
}

}  // namespace

const FeatureSet& SampleFeatures::at(const std::string& layer) const {
  const auto found = layers.find(layer);
  FM_CHECK(found != layers.end(), "no features of layer ", layer, " were gathered");
  return found->second;
}

Scorer::Scorer(std::shared_ptr<Detector> detector, const std::vector<std::string>& metrics,
               bool keep_features)
    : detector_(std::move(detector)), keep_features_(keep_features) {
  for (const std::string& name : metrics) {
    Asked asked = ask(name, *detector_);
    const FeatureLayer layer = layer_of_detector(*detector_, asked);
    asked.layer = layer.name;
    asked_.push_back(std::move(asked));
  }
  for (const FeatureLayer& layer : detector_->layers())
    if (std::any_of(asked_.begin(), asked_.end(),
                    [&](const Asked& asked) { return asked.layer == layer.name; }))
      layers_.push_back(layer);
}

Scorer::Scorer(std::shared_ptr<Detector> detector, std::vector<FeatureLayer> layers)
    : detector_(std::move(detector)), layers_(std::move(layers)), keep_features_(true) {}

bool Scorer::needs_reference() const {
  return std::any_of(asked_.begin(), asked_.end(), [](const Asked& asked) {
    return asked.metric->needs_reference();
  });
}

bool Scorer::keeps(const FeatureLayer& layer, int64_t count) const {
  if (keep_features_ || count <= layer.dimensions) return true;
  return std::any_of(asked_.begin(), asked_.end(), [&](const Asked& asked) {
    return asked.layer == layer.name && asked.metric->needs_features();
  });
}

const Scorer::Asked* Scorer::needs_reference_features(const std::string& layer) const {
  for (const Asked& asked : asked_)
    if (asked.layer == layer && asked.metric->needs_reference() &&
        asked.metric->needs_features())
      return &asked;
  return nullptr;
}

std::vector<Score> Scorer::scores(const SampleFeatures& reference,
                                  std::optional<int64_t> reference_count,
                                  const SampleFeatures& generated) const {
  std::vector<Score> scores;
  const FeatureSet none;
  for (const Asked& asked : asked_) {
    const bool compares = asked.metric->needs_reference();
    std::vector<MetricValue> values;
    try {
      values = asked.metric->compute(compares ? reference.at(asked.layer) : none,
                                     generated.at(asked.layer));
    } catch (const UsageError& error) {
      throw UsageError("--metrics " + asked.name + ": " + error.what());
    }
    const std::size_t first = scores.size();
    for (const MetricValue& value : values) {
      if (value.detail) {
        FM_CHECK(scores.size() > first, "metric ", asked.name, " gives a detail first");
        scores.back().details.emplace_back(value.name, value.value);
        continue;
      }
      Score score;
      score.metric = asked.name;
      score.value_name = value.name;
      score.layer = asked.layer;
      score.value = value.value;
      score.count = generated.count;
      score.compares = compares;
      const auto known = compares ? reference_count : std::nullopt;
      score.name = score_name(asked, value.name, *detector_, generated.count, known);
      score.group = score_name(asked, "", *detector_, generated.count, known);
      scores.push_back(std::move(score));
    }
  }
  return scores;
}

std::string count_text(int64_t count) {
  return count % 1000 == 0 ? std::to_string(count / 1000) + "k" : std::to_string(count);
}

bool is_unknown_inception(const Detector& detector) {
  return detector.name() != "inception" && detector.name().ends_with("_inception");
}

std::string score_name(const Scorer::Asked& asked, const std::string& value_name,
                       const Detector& detector, int64_t count,
                       std::optional<int64_t> reference_count) {
  constexpr int64_t kFull = 50000;
  const bool inception = detector.name() == "inception";
  std::string base = value_name.empty() ? asked.stem : value_name;
  std::replace(base.begin(), base.end(), ' ', '_');
  // Numbers of values with names of their own (precision, recall) are the metric's.
  const bool has_number =
      !base.empty() && std::isdigit(static_cast<unsigned char>(base.back())) != 0;
  if (!has_number) base += number_of(asked);
  if (!asked.metric->needs_reference() && detector.name() == "points") return base;
  if (is_unknown_inception(detector) && !asked.metric->detector().empty()) {
    // fid, sfid, kid: Inception's alone.
    if (const auto found = base.find("id"); asked.stem.ends_with("id"))
      base.replace(found, 2, "d");
  }
  const bool own_name = inception && asked.stem != "fd";
  if (!own_name) {
    // The number of a layer follows the detector.
    const bool several = detector.layers().size() > 1;
    const bool layer_number = !asked.number.empty() && asked.number == asked.layer;
    if (layer_number && base.ends_with(asked.number))
      base.resize(base.size() - asked.number.size());
    base += "_" + detector.name() + (several ? "_" + asked.layer : "");
  }
  const bool digit = std::isdigit(static_cast<unsigned char>(base.back())) != 0;
  // "fid10k", but "fid768_10k" and "kid_subsets_10k".
  const bool joined = own_name && !digit && base.find('_') == std::string::npos;
  std::string name = base + (joined ? "" : "_") + count_text(count);
  if (own_name && count == kFull && reference_count && *reference_count >= kFull)
    name += "_full";
  return name;
}

}  // namespace flowmap::metrics
