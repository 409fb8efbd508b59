#include "flowmap/data/edm_labels.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

using nlohmann::json;

constexpr std::int64_t kMaxEdmClasses = 1 << 20;

PictureLabel edm_label(const json& value, const std::string& name,
                       const std::string& where) {
  if (value.is_number_integer()) {
    const auto number = value.get<std::int64_t>();
    if (number < 0 || number >= kMaxEdmClasses)
      throw DataError(where, {}, "classes from 0 to 2^20 - 1",
                      std::to_string(number) + " for " + name);
    return number;
  }
  if (!value.is_array() || value.empty())
    throw DataError(where, {}, "a whole number or a list of numbers",
                    std::string(value.type_name()) + " for " + name);
  std::vector<float> numbers;
  for (const json& number : value) {
    if (!number.is_number())
      throw DataError(where, {}, "numbers in the label of " + name, number.type_name());
    numbers.push_back(number.get<float>());
    if (!std::isfinite(numbers.back()))
      throw DataError(where, {}, "finite numbers in the label of " + name, number.dump());
  }
  return numbers;
}

}  // namespace

EdmLabels parse_edm_labels(std::span<const std::byte> bytes, const std::string& where,
                           std::size_t count,
                           const std::function<std::string(std::size_t)>& name) {
  EdmLabels out;
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  const json root = json::parse(text, text + bytes.size(), nullptr, false);
  if (root.is_discarded() || !root.is_object())
    throw DataError(where, {}, "a JSON object", "something else");
  const auto found = root.find("labels");
  if (found == root.end() || found->is_null()) return out;
  if (!found->is_array())
    throw DataError(where, {}, "\"labels\": a list or null", found->type_name());

  std::unordered_map<std::string_view, const json*> by_name;
  for (const json& item : *found) {
    if (!item.is_array() || item.size() != 2 || !item[0].is_string())
      throw DataError(where, {}, "pairs [\"entry name\", label]",
                      item.dump(-1, ' ', true, json::error_handler_t::replace)
                          .substr(0, 60));
    by_name[item[0].get_ref<const std::string&>()] = &item[1];
  }
  if (by_name.empty() && count > 0)
    throw DataError(where, {}, "a label for every picture", "an empty list");

  for (std::size_t k = 0; k < count; ++k) {
    const std::string picture = name(k);
    const auto label = by_name.find(picture);
    if (label == by_name.end() || !label->second)
      throw DataError(where, {}, "a label for every picture", "none for " + picture);
    out.labels.push_back(edm_label(*label->second, picture, where));
    label->second = nullptr;
    const PictureLabel &first = out.labels.front(), &last = out.labels.back();
    if (first.index() != last.index())
      throw DataError(where, {}, "labels of one kind",
                      "numbers and lists, first at " + picture);
    if (const auto* numbers = std::get_if<std::vector<float>>(&last)) {
      const std::size_t width = std::get<std::vector<float>>(first).size();
      if (numbers->size() != width)
        throw DataError(where, {}, std::to_string(width) + " numbers a label",
                        std::to_string(numbers->size()) + " for " + picture);
    }
  }
  // In the order of the file.
  for (const json& item : *found) {
    const auto& absent = item[0].get_ref<const std::string&>();
    if (!by_name[absent]) continue;
    if (out.missing++ == 0) out.first_missing = absent;
  }
  return out;
}

std::string format_edm_labels(const std::vector<std::string>& names,
                              const std::vector<PictureLabel>& labels) {
  if (labels.empty()) return "{\"labels\": null}";
  FM_CHECK(names.size() == labels.size(), "dataset.json: ", names.size(), " pictures and ",
           labels.size(), " labels");
  std::string text = "{\"labels\": [";
  for (std::size_t k = 0; k < labels.size(); ++k) {
    if (k) text += ", ";
    text += "[" + json(names[k]).dump() + ", ";
    if (const auto* number = std::get_if<std::int64_t>(&labels[k])) {
      text += std::to_string(*number);
    } else {
      const auto& numbers = std::get<std::vector<float>>(labels[k]);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        char digits[32];
        const auto end = std::to_chars(digits, digits + sizeof digits, numbers[i]).ptr;
        text += (i ? ", " : "[") + std::string(digits, end);
      }
      text += "]";
    }
    text += "]";
  }
  return text + "]}";
}

}  // namespace flowmap
