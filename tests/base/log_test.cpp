#include "flowmap/base/log.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <thread>

#include "flowmap/base/error.h"
#include "flowmap/base/file.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

std::string error_message(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another exception: ") + error.what();
  }
  return "nothing was thrown";
}

class LogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "flowmap-log-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  // Exit code of `body` in a child, or 1000 + its signal; its stdout and stderr go to
  // the files "out" and "err".
  int run(const std::function<void()>& body, int out_fd = -1) const {
    const pid_t child = ::fork();
    if (child == 0) {
      constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
      const int out =
          out_fd >= 0 ? out_fd : ::open((folder_ / "out").c_str(), kFlags, 0600);
      const int err = ::open((folder_ / "err").c_str(), kFlags, 0600);
      ::dup2(out, STDOUT_FILENO);
      ::dup2(err, STDERR_FILENO);
      int code = 0;
      try {
        body();
      } catch (...) {
        code = 99;
      }
      ::_exit(code);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  // What `body` prints on a terminal 40 columns wide.
  std::string on_terminal(const std::function<void()>& body) const {
    int master = -1, slave = -1;
    struct winsize size{};
    size.ws_row = 24;
    size.ws_col = 40;
    if (::openpty(&master, &slave, nullptr, nullptr, &size) != 0) return "no terminal";
    const int code = run(
        [&] {
          ::setenv("TERM", "xterm", 1);
          body();
        },
        slave);
    ::fcntl(master, F_SETFL, O_NONBLOCK);
    std::string text(65536, '\0');
    const ssize_t got = ::read(master, text.data(), text.size());
    ::close(slave);
    ::close(master);
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    return code == 0 ? text : "the child failed";
  }
  std::string out() const { return read_file(folder_ / "out"); }
  std::string err() const { return read_file(folder_ / "err"); }

  fs::path folder_;
};

TEST_F(LogTest, LinesGoToStdoutWarningsToStderrBothToTheFile) {
  std::ofstream(folder_ / "log.txt") << "from before\n";
  EXPECT_EQ(run([&] {
              log_line("not copied");
              open_log_file(folder_ / "log.txt");
              log_line("tick 0");
              log_warning("gradients are not finite");
              open_log_file("");
              log_line("not copied either");
            }),
            0);
  EXPECT_EQ(out(), "not copied\ntick 0\nnot copied either\n");
  EXPECT_EQ(err(), "warning: gradients are not finite\n");
  EXPECT_EQ(read_file(folder_ / "log.txt"),
            "from before\ntick 0\nwarning: gradients are not finite\n");
}

TEST_F(LogTest, EachLineIsOutAtOnce) {
  EXPECT_EQ(run([&] {
              open_log_file(folder_ / "log.txt");
              log_line("tick 0");
              ::kill(::getpid(), SIGKILL);
            }),
            1000 + SIGKILL);
  EXPECT_EQ(out(), "tick 0\n");
  EXPECT_EQ(read_file(folder_ / "log.txt"), "tick 0\n");
}

TEST_F(LogTest, QuietSilencesLinesOnly) {
  EXPECT_EQ(run([&] {
              set_verbosity(-1);
              open_log_file(folder_ / "log.txt");
              log_line("a line");
              log_warning("a warning");
            }),
            0);
  EXPECT_EQ(out(), "");
  EXPECT_EQ(err(), "warning: a warning\n");
  EXPECT_EQ(read_file(folder_ / "log.txt"), "a line\nwarning: a warning\n");
  EXPECT_EQ(verbosity(), 0);
  set_verbosity(7);
  EXPECT_EQ(verbosity(), 1);
  set_verbosity(-7);
  EXPECT_EQ(verbosity(), -1);
  set_verbosity(0);
}

TEST_F(LogTest, LogFileErrors) {
  const std::string path = (folder_ / "no" / "log.txt").string();
  EXPECT_EQ(error_message([&] { open_log_file(path); }),
            path + ": cannot write the log file: No such file or directory");
  EXPECT_EQ(run([] {
              open_log_file("/dev/full");
              log_line("one");
              log_line("two");
            }),
            0);
  EXPECT_EQ(out(), "one\ntwo\n");
  EXPECT_EQ(err(),
            "warning: /dev/full: cannot write: No space left on device; nothing more is "
            "copied to this log file\n");
}

TEST_F(LogTest, LiveLineSaysNothingOffATerminal) {
  EXPECT_EQ(run([] {
              LiveLine live;
              live.update("10%");
              log_line("tick");
              if (LiveLine::on_terminal()) log_line("taken for a terminal");
            }),
            0);
  EXPECT_EQ(out(), "tick\n");
}

TEST_F(LogTest, LiveLineOnATerminal) {
  const std::string clear = "\r\x1b[K";
  // A log line clears it, is printed, and the live line comes back; at the end it goes.
  EXPECT_EQ(on_terminal([] {
              LiveLine live;
              live.update("10%");
              log_line("tick");
            }),
            clear + "10%" + clear + "tick\r\n" + clear + "10%" + clear);
  // Cut to the terminal's width less one, counting characters.
  EXPECT_EQ(on_terminal([] {
              LiveLine live;
              live.update(std::string(38, 'x') + "é and more");
              live.clear();
              live.clear();
            }),
            clear + std::string(38, 'x') + "é" + clear);
  EXPECT_EQ(on_terminal([] {
              set_verbosity(-1);
              LiveLine live;
              live.update("10%");
              log_line("tick");
            }),
            "");
  EXPECT_EQ(on_terminal([] {
              ::setenv("TERM", "dumb", 1);
              LiveLine live;
              live.update("10%");
            }),
            "");
}

TEST_F(LogTest, LiveLineIsUpdatedAtMostTenTimesASecond) {
  const std::string text = on_terminal([] {
    LiveLine live;
    for (int i = 0; i < 200; ++i) live.update("step " + std::to_string(i));
    std::this_thread::sleep_for(std::chrono::milliseconds(110));
    live.update("later");
  });
  EXPECT_THAT(text, HasSubstr("step 0\r"));
  EXPECT_THAT(text, Not(HasSubstr("step 1\r")));
  EXPECT_THAT(text, HasSubstr("later"));
}

TEST_F(LogTest, JsonLinesAppend) {
  const fs::path path = folder_ / "stats.jsonl";
  {
    JsonLines lines(path);
    lines.append("{\"a\":1}");
    EXPECT_EQ(read_file(path), "{\"a\":1}\n");
    lines.append("{\"a\":2}");
  }
  JsonLines(path).append("{\"a\":3}");
  EXPECT_EQ(read_file(path), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
  EXPECT_THAT(error_message([&] { JsonLines(path).append("{\n}"); }),
              HasSubstr("stats.jsonl: a line end inside a record: {"));
  EXPECT_EQ(read_file(path), "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n");
}

TEST_F(LogTest, JsonLinesCutsABrokenLastLine) {
  const fs::path path = folder_ / "stats.jsonl";
  const std::string whole = "{\"a\":1}\n";
  // Fragments shorter and longer than the block that is searched.
  for (const std::size_t length : {std::size_t{1}, std::size_t{4087}, std::size_t{4088},
                                   std::size_t{4089}, std::size_t{20000}}) {
    std::ofstream(path, std::ios::binary) << whole << std::string(length, 'x');
    { JsonLines lines(path); }
    EXPECT_EQ(read_file(path), whole) << length;
    JsonLines(path).append("{\"a\":2}");
    EXPECT_EQ(read_file(path), whole + "{\"a\":2}\n") << length;
  }
  std::ofstream(path, std::ios::binary) << "only a fragment";
  { JsonLines lines(path); }
  EXPECT_EQ(read_file(path), "");
}

TEST_F(LogTest, JsonLinesErrorsLeaveWholeLines) {
  const fs::path path = folder_ / "stats.jsonl";
  const std::string text = path.string();
  EXPECT_EQ(run([&] {
              const struct rlimit limit{100, 100};
              ::setrlimit(RLIMIT_FSIZE, &limit);
              JsonLines lines(path);
              lines.append(std::string(80, 'a'));
              const std::string message =
                  error_message([&] { lines.append(std::string(80, 'b')); });
              if (message != text + ": cannot write: File too large") ::_exit(3);
              lines.append("c");
            }),
            0);
  EXPECT_EQ(read_file(path), std::string(80, 'a') + "\nc\n");
  EXPECT_EQ(error_message([] { JsonLines("/dev/full").append("{}"); }),
            "/dev/full: cannot write: No space left on device");
  EXPECT_EQ(error_message([&] { JsonLines lines(folder_); }),
            folder_.string() + ": cannot write: Is a directory");
  const std::string under = (path / "x").string();
  EXPECT_EQ(error_message([&] { JsonLines lines{fs::path(under)}; }),
            under + ": cannot write: Not a directory");
}

TEST_F(LogTest, FirstInterruptSetsAFlag) {
  for (const int number : {SIGINT, SIGTERM}) {
    EXPECT_EQ(run([&] {
                install_interrupt_handler();
                if (interrupted()) ::_exit(3);
                ::raise(number);
                if (!interrupted()) ::_exit(4);
                clear_interrupt();
                if (interrupted()) ::_exit(5);
                ::raise(number);
                if (!interrupted()) ::_exit(6);
              }),
              0)
        << number;
  }
}

TEST_F(LogTest, SecondInterruptEndsTheProcess) {
  EXPECT_EQ(run([] {
              install_interrupt_handler();
              ::raise(SIGINT);
              ::raise(SIGINT);
            }),
            130);
  // SIGTERM asks, however often; the first SIGINT after it asks too.
  EXPECT_EQ(run([] {
              install_interrupt_handler();
              ::raise(SIGTERM);
              ::raise(SIGTERM);
              ::raise(SIGINT);
            }),
            0);
}

}  // namespace
}  // namespace flowmap
