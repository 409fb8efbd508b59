// What a program says: lines to stdout (copied to a log file when one is open), warnings
// to stderr, one live progress line on a terminal; and JSON-lines files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace flowmap {

// A line to stdout and to the open log file.
void log_line(std::string_view text);
// "warning: TEXT" to stderr and to the open log file.
void log_warning(std::string_view text);
// From now on copies go to `path` (appended). An empty path closes it. Throws Error with
// the path and the reason if it cannot be opened. A later failure to write (disk full) is
// one warning, and the copies stop.
void open_log_file(const std::filesystem::path& path);
// -1 quiet (warnings only on the terminal; the log file still gets every line), 0 normal,
// 1 verbose.
void set_verbosity(int level);
int verbosity();

// A line that rewrites itself on a terminal and says nothing elsewhere. At most ten
// updates a second; cleared when destroyed and while a log line is written.
class LiveLine {
 public:
  LiveLine();
  ~LiveLine();
  LiveLine(const LiveLine&) = delete;
  LiveLine& operator=(const LiveLine&) = delete;
  void update(std::string_view text);
  void clear();
  static bool on_terminal();
};

// Appends one line a call, flushed; creates the file. Each line is one write(2), so a
// killed process leaves whole lines (at worst the last is cut, and the next open cuts
// such a fragment away). Failures throw Error with the path and the reason, and leave no
// fragment behind.
class JsonLines {
 public:
  explicit JsonLines(const std::filesystem::path& path);
  ~JsonLines();
  // `json_line` is without its line end; one inside it is an error.
  void append(std::string_view json_line);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// SIGINT/SIGTERM set a flag; a second SIGINT ends the process at once (exit code 130).
// clear_interrupt starts over.
void install_interrupt_handler();
bool interrupted();
void clear_interrupt();

}  // namespace flowmap
