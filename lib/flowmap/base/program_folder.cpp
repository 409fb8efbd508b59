#include "flowmap/base/program_folder.h"

#include <cstdlib>
#include <system_error>

namespace flowmap {

std::vector<std::filesystem::path> folders_of_program(const std::filesystem::path& name) {
  std::vector<std::filesystem::path> places;
  if (const char* source = std::getenv("FLOWMAP_SOURCE_DIR"))
    places.push_back(std::filesystem::path(source) / name);
  std::error_code ignored;
  std::filesystem::path folder =
      std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
  for (int level = 0; level < 4 && folder.has_relative_path(); ++level) {
    places.push_back(folder / name);
    folder = folder.parent_path();
  }
  return places;
}

}  // namespace flowmap
