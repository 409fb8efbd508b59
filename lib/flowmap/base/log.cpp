#include "flowmap/base/log.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <system_error>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"

namespace flowmap {
namespace {

using LogClock = std::chrono::steady_clock;

// Everything that is printed goes through one of these.
struct LogState {
  std::mutex mutex;
  int level = 0;
  int file = -1;
  std::string file_path;
  std::string live;         // what the live line says, "" if there is none
  bool live_shown = false;  // whether it stands on the terminal
  LogClock::time_point live_time{};
};

LogState& log_state() {
  static LogState state;
  return state;
}

std::string log_reason(int code) { return std::generic_category().message(code); }

// All bytes, or the error number.
int write_log_bytes(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t done = ::write(fd, text.data(), text.size());
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(done));
  }
  return 0;
}

void print_to(std::FILE* stream, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stream);
  std::fflush(stream);
}

void hide_live(LogState& state) {
  if (!state.live_shown) return;
  print_to(stdout, "\r\x1b[K");
  state.live_shown = false;
}

// A longer line would wrap, and a wrapped line cannot be taken back with \r.
std::size_t terminal_columns() {
  struct winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
    return size.ws_col - 1u;
  return 79;
}

void show_live(LogState& state) {
  if (state.live.empty()) return;
  std::string text = "\r\x1b[K";
  std::size_t columns = terminal_columns();
  for (const char c : state.live) {
    // Bytes that go on with a UTF-8 character take no column.
    const bool starts = (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    if (starts && columns-- == 0) break;
    text += c == '\n' ? ' ' : c;
  }
  print_to(stdout, text);
  state.live_shown = true;
}

void copy_to_log_file(LogState& state, const std::string& line) {
  if (state.file < 0) return;
  const int code = write_log_bytes(state.file, line);
  if (code == 0) return;
  ::close(state.file);
  state.file = -1;
  print_to(stderr, "warning: " + state.file_path + ": cannot write: " + log_reason(code) +
                       "; nothing more is copied to this log file\n");
}

volatile sig_atomic_t interrupt_flag = 0;
volatile sig_atomic_t interrupt_count = 0;  // SIGINTs since the flag was cleared

void on_interrupt(int number) {
  if (number == SIGINT) {
    if (interrupt_count > 0) ::_exit(130);
    interrupt_count = 1;
  }
  interrupt_flag = 1;
}

}  // namespace

void log_line(std::string_view text) {
  LogState& state = log_state();
  const std::string line = std::string(text) + "\n";
  const std::lock_guard lock(state.mutex);
  if (state.level >= 0) {
    hide_live(state);
    print_to(stdout, line);
  }
  copy_to_log_file(state, line);
  if (state.level >= 0) show_live(state);
}

void log_warning(std::string_view text) {
  LogState& state = log_state();
  const std::string line = "warning: " + std::string(text) + "\n";
  const std::lock_guard lock(state.mutex);
  hide_live(state);
  print_to(stderr, line);
  copy_to_log_file(state, line);
  if (state.level >= 0) show_live(state);
}

void open_log_file(const std::filesystem::path& path) {
  ignore_file_size_signal();
  LogState& state = log_state();
  const std::lock_guard lock(state.mutex);
  if (state.file >= 0) ::close(state.file);
  state.file = -1;
  state.file_path = path.string();
  if (path.empty()) return;
  state.file = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (state.file < 0)
    throw Error(state.file_path + ": cannot write the log file: " + log_reason(errno));
}

void set_verbosity(int level) {
  LogState& state = log_state();
  const std::lock_guard lock(state.mutex);
  state.level = std::clamp(level, -1, 1);
  if (state.level < 0) hide_live(state);
}

int verbosity() {
  LogState& state = log_state();
  const std::lock_guard lock(state.mutex);
  return state.level;
}

LiveLine::LiveLine() = default;

LiveLine::~LiveLine() { clear(); }

void LiveLine::update(std::string_view text) {
  if (!on_terminal()) return;
  LogState& state = log_state();
  const std::lock_guard lock(state.mutex);
  if (state.level < 0) return;
  const auto now = LogClock::now();
  const bool first = state.live.empty();
  state.live = text;
  // A text that comes too soon is kept for when a log line makes the line be redrawn.
  if (!first && now - state.live_time < std::chrono::milliseconds(100)) return;
  state.live_time = now;
  if (text.empty()) hide_live(state);
  show_live(state);
}

void LiveLine::clear() {
  LogState& state = log_state();
  const std::lock_guard lock(state.mutex);
  hide_live(state);
  state.live.clear();
}

bool LiveLine::on_terminal() {
  if (::isatty(STDOUT_FILENO) != 1) return false;
  const char* const terminal = std::getenv("TERM");
  return terminal && std::string_view(terminal) != "dumb";
}

struct JsonLines::Impl {
  std::string path;
  int fd = -1;
  bool regular = false;

  [[noreturn]] void fail(int code) const {
    throw Error(path + ": cannot write: " + log_reason(code));
  }

  // Where the last whole line ends.
  off_t whole_lines_end(off_t size) const {
    std::array<char, 4096> block{};
    while (size > 0) {
      const off_t begin = std::max<off_t>(0, size - static_cast<off_t>(block.size()));
      const ssize_t got =
          ::pread(fd, block.data(), static_cast<std::size_t>(size - begin), begin);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(errno);
      if (got == 0) return 0;
      const std::size_t end =
          std::string_view(block.data(), static_cast<std::size_t>(got)).rfind('\n');
      if (end != std::string_view::npos) return begin + static_cast<off_t>(end) + 1;
      size = begin;
    }
    return 0;
  }
};

JsonLines::JsonLines(const std::filesystem::path& path)
    : impl_(std::make_unique<Impl>()) {
  ignore_file_size_signal();
  impl_->path = path.string();
  constexpr int kFlags = O_APPEND | O_CREAT | O_CLOEXEC;
  impl_->fd = ::open(path.c_str(), O_RDWR | kFlags, 0666);
  if (impl_->fd < 0) impl_->fail(errno);
  try {
    struct stat status{};
    if (::fstat(impl_->fd, &status) != 0) impl_->fail(errno);
    impl_->regular = S_ISREG(status.st_mode);
    if (!impl_->regular) return;
    const off_t end = impl_->whole_lines_end(status.st_size);
    if (end < status.st_size && ::ftruncate(impl_->fd, end) != 0) impl_->fail(errno);
  } catch (...) {
    ::close(impl_->fd);
    throw;
  }
}

JsonLines::~JsonLines() { ::close(impl_->fd); }

void JsonLines::append(std::string_view json_line) {
  FM_CHECK(json_line.find('\n') == std::string_view::npos, impl_->path,
           ": a line end inside a record: ", json_line);
  const std::string line = std::string(json_line) + "\n";
  struct stat before{};
  if (impl_->regular && ::fstat(impl_->fd, &before) != 0) impl_->fail(errno);
  if (const int code = write_log_bytes(impl_->fd, line); code != 0) {
    if (impl_->regular) static_cast<void>(!::ftruncate(impl_->fd, before.st_size));
    impl_->fail(code);
  }
}

void install_interrupt_handler() {
  struct sigaction action{};
  action.sa_handler = on_interrupt;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return interrupt_flag != 0; }

void clear_interrupt() {
  interrupt_flag = 0;
  interrupt_count = 0;
}

}  // namespace flowmap
