// Where the files are that come with the program.
#pragma once

#include <filesystem>
#include <vector>

namespace flowmap {

// `name` (a folder such as "models") below FLOWMAP_SOURCE_DIR where that is set, and below
// the four folders above the program: a build tree lies inside its sources. Nearest first;
// they need not exist.
std::vector<std::filesystem::path> folders_of_program(const std::filesystem::path& name);

}  // namespace flowmap
