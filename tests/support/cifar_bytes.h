// CIFAR-10 and CIFAR-100 made small, byte for byte in the layout of the real files.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/scratch.h"
#include "tests/support/tar_bytes.h"

namespace flowmap::testing {

using namespace std::string_literals;

// What cPickle of Python 2 writes with protocol 2: text is a str, whose bytes are counted.
inline std::string py2_str(const std::string& text) {
  return text.size() < 256 ? "U" + little(text.size(), 1) + text
                           : "T" + little(text.size(), 4) + text;
}
inline std::string py2_int(unsigned value) {
  return value < 256 ? "K" + little(value, 1) : "M" + little(value, 2);
}
inline std::string py2_list(const std::vector<std::string>& items) {
  std::string out = "](";
  for (const std::string& item : items) out += item;
  return out + "e";
}
inline std::string py2_ints(const std::vector<int>& values) {
  std::vector<std::string> items;
  for (const int value : values) items.push_back(py2_int(static_cast<unsigned>(value)));
  return py2_list(items);
}
// numpy.ndarray uint8 [rows, columns].
inline std::string py2_array(unsigned rows, const std::string& bytes,
                             unsigned columns = 3072) {
  return "cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R(K\1"s +
         py2_int(rows) + py2_int(columns) +
         "\x86""cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xffJ"
         "\xff\xff\xff\xffK\0tb\x89"s +
         py2_str(bytes) + "tb";
}
inline std::string py2_dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string out = "\x80\2}("s;
  for (const auto& [key, value] : items) out += py2_str(key) + value;
  return out + "u.";
}

// Picture `number` as 3072 bytes, planes of red, green and blue.
inline std::string cifar_picture(int number) {
  std::string bytes(3072, '\0');
  for (int i = 0; i < 3072; ++i)
    bytes[static_cast<std::size_t>(i)] = static_cast<char>(i * 7 + i / 1024 + number * 13);
  return bytes;
}
inline std::string cifar_pictures(int first, int count) {
  std::string bytes;
  for (int k = first; k < first + count; ++k) bytes += cifar_picture(k);
  return bytes;
}
// Classes of pictures `first` onwards: 0, 3, 6, 9, 2, ...
inline std::vector<int> cifar_classes(int first, int count, int of = 10) {
  std::vector<int> classes;
  for (int k = first; k < first + count; ++k) classes.push_back(k * 3 % of);
  return classes;
}

inline std::string cifar10_batch(int first, int count) {
  return py2_dict({{"batch_label", py2_str("training batch 1 of 5")},
                   {"labels", py2_ints(cifar_classes(first, count))},
                   {"data", py2_array(static_cast<unsigned>(count),
                                      cifar_pictures(first, count))},
                   {"filenames", py2_list({py2_str("a.png")})}});
}
// Two pictures a training batch, three in the test batch (numbers 100 to 102).
inline std::string cifar10_python_tar() {
  std::string tar = tar_header("cifar-10-batches-py/", 0, '5');
  for (const int part : {4, 1, 2, 5, 3})  // not in order, as in the real file
    tar += tar_member("cifar-10-batches-py/data_batch_" + std::to_string(part),
                      cifar10_batch(2 * (part - 1), 2));
  tar += tar_member("cifar-10-batches-py/test_batch", cifar10_batch(100, 3));
  tar += tar_member("cifar-10-batches-py/readme.html", "<html>");
  std::vector<std::string> names;
  for (const char* name : {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog",
                           "horse", "ship", "truck"})
    names.push_back(py2_str(name));
  tar += tar_member("cifar-10-batches-py/batches.meta",
                    py2_dict({{"num_cases_per_batch", py2_int(10000)},
                              {"label_names", py2_list(names)}}));
  return tar + tar_end();
}

}  // namespace flowmap::testing
