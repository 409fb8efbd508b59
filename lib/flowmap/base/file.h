// Files: whole reads, memory maps, and writes that either happen or leave no trace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flowmap {

// The whole file. Throws Error "PATH: cannot read: REASON"; a folder is an error.
std::string read_file(const std::filesystem::path& path);

// Read-only memory map of a whole file. An empty file maps to an empty span.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// A file that appears under its name only when complete: written to a temporary beside
// it, flushed to the disk, renamed. Destroyed without commit(), it removes the temporary
// and whatever stood under the name before stays as it was.
// Every failure (no space, a folder in the way, RLIMIT_FSIZE) throws Error with the path
// and the system's reason. SIGXFSZ is ignored from the first AtomicFile on, so the limit
// is an error and not a death. A path that is no regular file (/dev/stdout, /dev/full, a
// pipe) is written in place. A symbolic link stays one: its target is replaced. The mode
// of a file that is replaced is kept.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();
  // The path being written (the temporary), for libraries that write by name; such a
  // library must be done with it before commit().
  const std::filesystem::path& temporary() const { return temporary_; }

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  bool committed_ = false;
};

// Makes the file size limit an error of write(2) in the whole process (a handler that is
// installed stays). AtomicFile and JsonLines call it.
void ignore_file_size_signal();

// The whole content at once, atomically.
void write_file_atomic(const std::filesystem::path& path, std::string_view content);
void write_file_atomic(const std::filesystem::path& path,
                       std::span<const std::byte> content);

// mkdir -p. Throws Error naming the first component that is in the way (a file, no
// permission).
void make_directories(const std::filesystem::path& path);

}  // namespace flowmap
