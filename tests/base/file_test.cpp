#include "flowmap/base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>
#include <thread>

#include "flowmap/base/error.h"

namespace flowmap {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "flowmap-file-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    std::error_code ignored;
    fs::permissions(folder_, fs::perms::owner_all, ignored);
    fs::remove_all(folder_, ignored);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(folder_))
      found.push_back(entry.path().filename().string());
    return found;
  }
  void put(const fs::path& path, std::string_view text) const {
    std::ofstream(path, std::ios::binary) << text;
  }

  fs::path folder_;
};

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

// Exit code of `body` in a child, or 1000 + the signal that ended it. The child must not
// touch gtest: it says by its code what it saw.
int run_in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 99;
    try {
      code = body();
    } catch (...) {
    }
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

TEST_F(FileTest, ReadsWholeFiles) {
  const std::string binary("a\0b\r\n\xFF", 6);
  put(folder_ / "x", binary);
  EXPECT_EQ(read_file(folder_ / "x"), binary);
  put(folder_ / "empty", "");
  EXPECT_EQ(read_file(folder_ / "empty"), "");
  const std::string large(3'000'001, 'z');
  put(folder_ / "large", large);
  EXPECT_EQ(read_file(folder_ / "large"), large);
  // Says size 0 though there is something to read.
  EXPECT_THAT(read_file("/proc/self/status"), HasSubstr("Name:"));
}

TEST_F(FileTest, ReadsAPipe) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const std::string text(100'000, 'p');
  std::thread writer([&] { put(pipe, text); });
  EXPECT_EQ(read_file(pipe), text);
  writer.join();
}

TEST_F(FileTest, ReadingErrorsNameThePathAndTheReason) {
  const std::string missing = (folder_ / "missing").string();
  EXPECT_EQ(error_message([&] { read_file(missing); }),
            missing + ": cannot read: No such file or directory");
  EXPECT_EQ(error_message([&] { MappedFile map{fs::path(missing)}; }),
            missing + ": cannot read: No such file or directory");
  EXPECT_EQ(error_message([&] { read_file(folder_); }),
            folder_.string() + ": cannot read: it is a folder, not a file");
  EXPECT_EQ(error_message([&] { MappedFile map(folder_); }),
            folder_.string() + ": cannot read: it is a folder, not a file");
  EXPECT_EQ(error_message([&] { MappedFile map("/dev/null"); }),
            "/dev/null: cannot read: it is no regular file");
}

TEST_F(FileTest, MapsFiles) {
  put(folder_ / "x", "mapped");
  MappedFile map(folder_ / "x");
  const auto text = [](const MappedFile& file) {
    return std::string(reinterpret_cast<const char*>(file.bytes().data()),
                       file.bytes().size());
  };
  EXPECT_EQ(text(map), "mapped");
  EXPECT_EQ(map.path(), (folder_ / "x").string());
  MappedFile moved(std::move(map));
  EXPECT_EQ(text(moved), "mapped");
  put(folder_ / "empty", "");
  MappedFile empty(folder_ / "empty");
  EXPECT_TRUE(empty.bytes().empty());
  empty = std::move(moved);
  EXPECT_EQ(text(empty), "mapped");
}

TEST_F(FileTest, WritesAndReplaces) {
  const fs::path path = folder_ / "result.bin";
  write_file_atomic(path, std::string_view("first"));
  EXPECT_EQ(read_file(path), "first");
  const std::byte bytes[] = {std::byte{0}, std::byte{255}};
  write_file_atomic(path, bytes);
  EXPECT_EQ(read_file(path), std::string("\0\xFF", 2));
  write_file_atomic(path, std::string_view(""));
  EXPECT_EQ(read_file(path), "");
  EXPECT_THAT(names(), UnorderedElementsAre("result.bin"));
}

TEST_F(FileTest, NothingIsSeenBeforeCommit) {
  const fs::path path = folder_ / "result.bin";
  {
    AtomicFile file(path);
    file.write("half");
    EXPECT_FALSE(fs::exists(path));
    EXPECT_EQ(file.temporary().parent_path(), folder_);
    EXPECT_TRUE(fs::exists(file.temporary()));
  }
  EXPECT_THAT(names(), IsEmpty());

  put(path, "old");
  {
    AtomicFile file(path);
    file.write("half");
    EXPECT_EQ(read_file(path), "old");
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_THAT(names(), UnorderedElementsAre("result.bin"));
}

TEST_F(FileTest, CommitEndsTheWriting) {
  AtomicFile file(folder_ / "x");
  file.write("all");
  file.commit();
  EXPECT_EQ(read_file(folder_ / "x"), "all");
  EXPECT_THAT(error_message([&] { file.write("more"); }),
              HasSubstr("/x: written to after it was committed"));
  EXPECT_THAT(error_message([&] { file.commit(); }), HasSubstr("/x: committed twice"));
}

TEST_F(FileTest, TwoWritersDoNotShareATemporary) {
  AtomicFile one(folder_ / "x"), two(folder_ / "x");
  one.write("1");
  two.write("2");
  one.commit();
  EXPECT_EQ(read_file(folder_ / "x"), "1");
  two.commit();
  EXPECT_EQ(read_file(folder_ / "x"), "2");
  EXPECT_THAT(names(), UnorderedElementsAre("x"));
}

TEST_F(FileTest, ALibraryMayReplaceTheTemporary) {
  AtomicFile file(folder_ / "x");
  put(folder_ / "other", "by a library");
  fs::rename(folder_ / "other", file.temporary());
  file.commit();
  EXPECT_EQ(read_file(folder_ / "x"), "by a library");

  AtomicFile lost(folder_ / "y");
  fs::remove(lost.temporary());
  EXPECT_EQ(error_message([&] { lost.commit(); }),
            (folder_ / "y").string() + ": cannot write: No such file or directory");
}

TEST_F(FileTest, KeepsModeAndSymbolicLink) {
  const fs::path target = folder_ / "target", link = folder_ / "link";
  put(target, "old");
  ASSERT_EQ(::chmod(target.c_str(), 0640), 0);
  fs::create_symlink("target", link);
  write_file_atomic(link, std::string_view("new"));
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(read_file(target), "new");
  struct stat status{};
  ASSERT_EQ(::stat(target.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST_F(FileTest, NewFilesFollowTheUmask) {
  const mode_t old = ::umask(027);
  write_file_atomic(folder_ / "x", std::string_view("new"));
  ::umask(old);
  struct stat status{};
  ASSERT_EQ(::stat((folder_ / "x").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST_F(FileTest, LongNamesWork) {
  const fs::path path = folder_ / std::string(255, 'n');
  write_file_atomic(path, std::string_view("x"));
  EXPECT_EQ(read_file(path), "x");
}

TEST_F(FileTest, WritingErrorsNameWhatIsInTheWay) {
  const std::string file = (folder_ / "file").string();
  put(file, "content");
  const std::string under = file + "/sub/x.npz";
  EXPECT_EQ(error_message([&] { AtomicFile out{fs::path(under)}; }),
            under + ": cannot write: '" + file + "' is a file, not a folder");
  const std::string nowhere = (folder_ / "no" / "where" / "x").string();
  EXPECT_EQ(error_message([&] { AtomicFile out{fs::path(nowhere)}; }),
            nowhere + ": cannot write: the folder '" + (folder_ / "no").string() +
                "' does not exist; create it first");
  EXPECT_EQ(error_message([&] { AtomicFile out(folder_); }),
            folder_.string() + ": cannot write: it names a folder; name a file in it");
  EXPECT_EQ(
      error_message([&] { AtomicFile out(folder_ / "new" / ""); }),
      folder_.string() + "/new/: cannot write: it names a folder; name a file in it");
  EXPECT_EQ(error_message([] { AtomicFile out{fs::path()}; }),
            "cannot write: the path of the file is empty");
  EXPECT_EQ(read_file(file), "content");
  EXPECT_THAT(names(), UnorderedElementsAre("file"));
}

TEST_F(FileTest, AFolderThatAppearsMeanwhileIsAnError) {
  const fs::path path = folder_ / "x";
  {
    AtomicFile file(path);
    fs::create_directories(path / "inside");
    EXPECT_EQ(error_message([&] { file.commit(); }),
              path.string() + ": cannot write: Is a directory");
  }
  EXPECT_THAT(names(), UnorderedElementsAre("x"));
}

TEST_F(FileTest, ReadOnlyFolderIsAnError) {
  fs::permissions(folder_, static_cast<fs::perms>(0555));
  const std::string file = (folder_ / "x").string();
  const std::string folder = (folder_ / "a" / "b").string();
  const int code = run_in_child([&] {
    // Permissions do not bind root.
    if (::geteuid() == 0 && ::seteuid(65534) != 0) return 2;
    if (error_message([&] { AtomicFile out{fs::path(file)}; }) !=
        file + ": cannot write: Permission denied")
      return 3;
    return error_message([&] { make_directories(folder); }) ==
                   folder + ": cannot create the folder: '" + (folder_ / "a").string() +
                       "': Permission denied"
               ? 0
               : 4;
  });
  EXPECT_EQ(code, 0);
}

TEST_F(FileTest, FullDeviceIsAnError) {
  EXPECT_EQ(error_message([] { write_file_atomic("/dev/full", std::string_view("x")); }),
            "/dev/full: cannot write: No space left on device");
  struct stat status{};
  ASSERT_EQ(::stat("/dev/full", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));  // written in place, not replaced
}

TEST_F(FileTest, PipesAreWrittenInPlace) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::string got;
  std::thread reader([&] { got = read_file(pipe); });
  write_file_atomic(pipe, std::string_view("through the pipe"));
  reader.join();
  EXPECT_EQ(got, "through the pipe");
  EXPECT_TRUE(fs::is_fifo(pipe));
}

TEST_F(FileTest, RedirectedStdoutSharesItsOffset) {
  const fs::path path = folder_ / "redirected";
  const int code = run_in_child([&] {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ::dup2(fd, STDOUT_FILENO) < 0) return 2;
    if (::write(STDOUT_FILENO, "before ", 7) != 7) return 3;
    write_file_atomic("/dev/stdout", std::string_view("middle "));
    write_file_atomic("/dev/fd/1", std::string_view("again "));
    return ::write(STDOUT_FILENO, "after", 5) == 5 ? 0 : 4;
  });
  EXPECT_EQ(code, 0);
  EXPECT_EQ(read_file(path), "before middle again after");
}

// The limit comes in the middle of the second write: an error, no signal, no trace.
TEST_F(FileTest, FileSizeLimitIsAnErrorAndLeavesTheOldFile) {
  const fs::path path = folder_ / "snapshot";
  put(path, "old");
  const int code = run_in_child([&] {
    const struct rlimit limit{10'000, 10'000};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    const std::string expected = path.string() +
                                 ": cannot write: File too large (the limit on file "
                                 "sizes is reached: see ulimit -f)";
    const std::string chunk(8'000, 'c');
    const std::string message = error_message([&] {
      AtomicFile file(path);
      file.write(chunk);
      file.write(chunk);
      file.commit();
    });
    return message == expected ? 0 : 3;
  });
  EXPECT_EQ(code, 0);
  EXPECT_EQ(read_file(path), "old");
  EXPECT_THAT(names(), UnorderedElementsAre("snapshot"));
}

// kill -9 between write and commit: the old file stands; a later writer whose process
// number is the same is not disturbed by what was left.
TEST_F(FileTest, AKilledWriterLeavesTheOldFile) {
  const fs::path path = folder_ / "snapshot";
  put(path, "old");
  const int code = run_in_child([&] {
    AtomicFile file(path);
    file.write("half of the new");
    ::kill(::getpid(), SIGKILL);
    return 0;
  });
  EXPECT_EQ(code, 1000 + SIGKILL);
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(names().size(), 2u);  // the hidden left-over beside it
  write_file_atomic(path, std::string_view("new"));
  EXPECT_EQ(read_file(path), "new");
}

TEST_F(FileTest, SkipsLeftOversWithItsOwnNumber) {
  fs::path first;
  { first = AtomicFile(folder_ / "x").temporary(); }
  const std::string name = first.filename().string();
  const std::size_t dot = name.rfind('.');
  const int next = std::stoi(name.substr(dot + 1)) + 1;
  const fs::path stale = folder_ / (name.substr(0, dot + 1) + std::to_string(next));
  put(stale, "stale");
  write_file_atomic(folder_ / "x", std::string_view("new"));
  EXPECT_EQ(read_file(folder_ / "x"), "new");
  EXPECT_EQ(read_file(stale), "stale");
}

TEST_F(FileTest, MakesFolders) {
  make_directories(folder_ / "a" / "b" / "c");
  EXPECT_TRUE(fs::is_directory(folder_ / "a" / "b" / "c"));
  make_directories(folder_ / "a" / "b" / "c" / "");  // again, with a slash at the end
  make_directories("");
  put(folder_ / "file", "");
  const fs::path under = folder_ / "file" / "sub";
  EXPECT_EQ(error_message([&] { make_directories(under); }),
            under.string() + ": cannot create the folder: '" +
                (folder_ / "file").string() + "' is a file, not a folder");
}

}  // namespace
}  // namespace flowmap
