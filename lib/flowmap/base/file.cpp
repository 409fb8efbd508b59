#include "flowmap/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <mutex>
#include <system_error>
#include <utility>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;

// Closes on the way out; release() hands the descriptor over.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string system_reason(int code) {
  std::string reason = std::generic_category().message(code);
  if (code == EFBIG) reason += " (the limit on file sizes is reached: see ulimit -f)";
  return reason;
}

int open_retrying(const fs::path& path, int flags, mode_t mode = 0666) {
  int fd;
  do fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  while (fd < 0 && errno == EINTR);
  return fd;
}

// Why nothing can be put into `folder`: the first component that is a file or missing,
// or the plain reason for `code` if all of them are folders.
std::string obstacle_reason(const fs::path& folder, int code) {
  fs::path walked;
  for (const fs::path& part : folder) {
    walked /= part;
    struct stat status{};
    if (::stat(walked.c_str(), &status) != 0) {
      if (errno == ENOENT)
        return "the folder '" + walked.string() + "' does not exist; create it first";
      return "'" + walked.string() + "': " + system_reason(errno);
    }
    if (!S_ISDIR(status.st_mode))
      return "'" + walked.string() + "' is a file, not a folder";
  }
  return system_reason(code);
}

[[noreturn]] void fail_reading(const std::string& path, const std::string& reason) {
  throw Error(path + ": cannot read: " + reason);
}
[[noreturn]] void fail_writing(const fs::path& path, const std::string& reason) {
  throw Error(path.string() + ": cannot write: " + reason);
}

// N of /dev/stdout, /dev/stderr, /dev/fd/N and /proc/self/fd/N, or -1. They are
// duplicated instead of opened, so that the offset of a redirected stream is shared.
int inherited_descriptor(const std::string& path) {
  if (path == "/dev/stdout") return STDOUT_FILENO;
  if (path == "/dev/stderr") return STDERR_FILENO;
  for (const std::string_view folder : {"/dev/fd/", "/proc/self/fd/"}) {
    if (!path.starts_with(folder)) continue;
    int number = -1;
    const char* const end = path.data() + path.size();
    const auto result = std::from_chars(path.data() + folder.size(), end, number);
    if (result.ec == std::errc() && result.ptr == end) return number;
  }
  return -1;
}

// EINVAL and ENOTSUP: a file system that has nothing to flush.
bool flush_to_disk(int fd) {
  int result;
  do result = ::fsync(fd);
  while (result != 0 && errno == EINTR);
  return result == 0 || errno == EINVAL || errno == ENOTSUP;
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

std::string read_file(const fs::path& path) {
  const std::string name = path.string();
  const FileDescriptor file(open_retrying(path, O_RDONLY));
  if (file.get() < 0) fail_reading(name, system_reason(errno));
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) fail_reading(name, system_reason(errno));
  if (S_ISDIR(status.st_mode)) fail_reading(name, "it is a folder, not a file");
  // Pipes and /proc say size 0, so the size is only where reading starts from.
  std::string content(static_cast<std::size_t>(status.st_size) + 1, '\0');
  std::size_t filled = 0;
  for (;;) {
    if (filled == content.size()) content.resize(content.size() * 2 + 4096);
    const ssize_t got =
        ::read(file.get(), content.data() + filled, content.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_reading(name, system_reason(errno));
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  content.resize(filled);
  return content;
}

MappedFile::MappedFile(const fs::path& path) : path_(path.string()) {
  const FileDescriptor file(open_retrying(path, O_RDONLY));
  if (file.get() < 0) fail_reading(path_, system_reason(errno));
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) fail_reading(path_, system_reason(errno));
  if (S_ISDIR(status.st_mode)) fail_reading(path_, "it is a folder, not a file");
  if (!S_ISREG(status.st_mode)) fail_reading(path_, "it is no regular file");
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) return;
  // Private and writable: tensors made of the map may be written to; the file never is.
  void* const data =
      ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) fail_reading(path_, system_reason(errno));
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void ignore_file_size_signal() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Only the deadly default is replaced; a handler somebody installed stays.
    struct sigaction action{};
    if (::sigaction(SIGXFSZ, nullptr, &action) == 0 && action.sa_handler == SIG_DFL) {
      action.sa_handler = SIG_IGN;
      ::sigaction(SIGXFSZ, &action, nullptr);
    }
  });
}

AtomicFile::AtomicFile(const fs::path& path) : path_(path) {
  ignore_file_size_signal();
  if (path.empty()) throw Error("cannot write: the path of the file is empty");
  if (const int inherited = inherited_descriptor(path.string()); inherited >= 0) {
    temporary_ = path_;
    fd_ = ::fcntl(inherited, F_DUPFD_CLOEXEC, 0);
    if (fd_ < 0) fail_writing(path, system_reason(errno));
    return;
  }
  struct stat old{};
  const bool exists = ::stat(path.c_str(), &old) == 0;
  if ((exists && S_ISDIR(old.st_mode)) || !path.has_filename())
    fail_writing(path, "it names a folder; name a file in it");
  if (exists && !S_ISREG(old.st_mode)) {
    temporary_ = path_;
    fd_ = open_retrying(path, O_WRONLY);
    if (fd_ < 0) fail_writing(path, system_reason(errno));
    return;
  }
  // The file a symbolic link points at is replaced, not the link.
  std::error_code ignored;
  if (exists && fs::is_symlink(path, ignored)) path_ = fs::canonical(path);

  // Hidden, so that listings of the folder do not take it for a result. Left-overs of a
  // killed process may have this process's number: take the next name then.
  static std::atomic<unsigned> counter{0};
  const std::string base = "." + path_.filename().string().substr(0, 200) + ".tmp." +
                           std::to_string(::getpid()) + ".";
  do {
    temporary_ = path_.parent_path() / (base + std::to_string(counter++));
    fd_ = open_retrying(temporary_, O_WRONLY | O_CREAT | O_EXCL);
  } while (fd_ < 0 && errno == EEXIST);
  if (fd_ < 0) {
    const int code = errno;
    fail_writing(path, obstacle_reason(folder_of(path_), code));
  }
  if (exists) static_cast<void>(::fchmod(fd_, old.st_mode & 0777));
}

AtomicFile::~AtomicFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!committed_ && temporary_ != path_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  FM_CHECK(fd_ >= 0, path_.string(), ": written to after it was committed");
  // Linux writes at most 2^31 - 4096 bytes a call.
  constexpr std::size_t kMostAtOnce = std::size_t{1} << 30;
  while (!bytes.empty()) {
    const ssize_t done =
        ::write(fd_, bytes.data(), std::min(bytes.size(), kMostAtOnce));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail_writing(path_, system_reason(errno));
    if (done == 0) fail_writing(path_, system_reason(ENOSPC));
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
}

void AtomicFile::write(std::string_view text) { write(std::as_bytes(std::span(text))); }

void AtomicFile::commit() {
  FM_CHECK(fd_ >= 0, path_.string(), ": committed twice");
  const bool in_place = temporary_ == path_;
  if (!in_place) {
    // A library that wrote by name may have put another file under it: flush that.
    const FileDescriptor named(open_retrying(temporary_, O_RDONLY));
    if (named.get() < 0 || !flush_to_disk(named.get()))
      fail_writing(path_, system_reason(errno));
  }
  // Delayed write errors (quota, network) come out at close.
  if (::close(std::exchange(fd_, -1)) != 0 && errno != EINTR)
    fail_writing(path_, system_reason(errno));
  if (!in_place) {
    if (::rename(temporary_.c_str(), path_.c_str()) != 0)
      fail_writing(path_, system_reason(errno));
    committed_ = true;
    // The name is durable once the folder is. A folder that cannot be opened for
    // reading cannot be flushed.
    const FileDescriptor folder(open_retrying(folder_of(path_), O_RDONLY | O_DIRECTORY));
    if (folder.get() >= 0 && !flush_to_disk(folder.get()))
      fail_writing(path_, system_reason(errno));
  }
  committed_ = true;
}

void write_file_atomic(const fs::path& path, std::string_view content) {
  write_file_atomic(path, std::as_bytes(std::span(content)));
}

void write_file_atomic(const fs::path& path, std::span<const std::byte> content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

void make_directories(const fs::path& path) {
  fs::path walked;
  for (const fs::path& part : path) {
    walked /= part;
    if (part.empty() || ::mkdir(walked.c_str(), 0777) == 0) continue;
    const int code = errno;
    struct stat status{};
    const bool exists = ::stat(walked.c_str(), &status) == 0;
    if (exists && S_ISDIR(status.st_mode)) continue;
    throw Error(path.string() + ": cannot create the folder: '" + walked.string() +
                (exists ? "' is a file, not a folder" : "': " + system_reason(code)));
  }
}

}  // namespace flowmap
