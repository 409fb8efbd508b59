// The state of a search: costs so far, how they were made, and for which seeds. Written
// after every batch, so that a search goes on after it was ended; files of several machines
// are added up.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "samplers/boss/cost_matrix.h"

namespace flowmap::samplers {

struct CostFile {
  CostSums sums;
  // What must be the same for costs to be added: network, anchors, teacher, ...
  std::map<std::string, std::string> settings;
  std::vector<std::int64_t> seeds;  // of the samples that are in, in their order

  // Throws UsageError naming both files, and the setting that differs or the seed that is
  // in both.
  void merge(const CostFile& other, const std::string& name, const std::string& other_name);
};

// safetensors; atomic.
void write_cost_file(const std::filesystem::path& path, const CostFile& file);
// Throws DataError where the file is cut or holds something else.
CostFile read_cost_file(const std::filesystem::path& path);

// Throws UsageError where settings differ, naming the first of them and both values.
void require_same_settings(const std::map<std::string, std::string>& wanted,
                           const CostFile& file, const std::string& name);

}  // namespace flowmap::samplers
