// The one binary: finds the verb, runs it, and turns exceptions into messages and exit
// codes: 0 done, 1 failed, 2 asked for something that cannot be, 130 stopped (Ctrl-C).
#include <c10/util/Exception.h>

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "apps/cli.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"

namespace {

void print_help() {
  std::puts("flowmap: trains, distils, samples and scores one-step image generators\n\n"
            "usage: flowmap VERB [OPTIONS]\n\nverbs:");
  for (const flowmap::apps::Verb& verb : flowmap::apps::verbs())
    std::printf("  %-10s %s\n", verb.name, verb.summary);
  std::puts("\n'flowmap VERB --help' shows the options of a verb and an example;\n"
            "'flowmap --version' says what this build is made of.");
}

int run(const std::vector<std::string>& words, std::string& speaker) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    print_help();
    return words.empty() ? 2 : 0;
  }
  if (words[0] == "--version") {
    std::puts(flowmap::apps::version_text().c_str());
    return 0;
  }
  std::vector<std::string> names;
  for (const flowmap::apps::Verb& verb : flowmap::apps::verbs()) {
    if (words[0] == verb.name) {
      speaker += " " + words[0];
      return verb.run(std::span(words).subspan(1));
    }
    names.emplace_back(verb.name);
  }
  throw flowmap::UsageError("unknown verb '" + words[0] + "'" +
                            flowmap::suggestion(words[0], names));
}

int fail(const std::string& speaker, const char* message, int code) {
  std::fflush(stdout);
  std::fprintf(stderr, "%s: %s\n", speaker.c_str(), message);
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  std::string speaker = "flowmap";
  try {
    const int code = run({argv + 1, argv + argc}, speaker);
    // A full disk behind a redirected stdout is a failure too.
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      return fail(speaker, "cannot write to stdout", 1);
    return code;
  } catch (const flowmap::UsageError& error) {
    return fail(speaker, error.what(), 2);
  } catch (const flowmap::Interrupted& error) {
    return fail(speaker, error.what(), 130);
  } catch (const c10::Error& error) {
    return fail(speaker, error.what_without_backtrace(), 1);
  } catch (const std::bad_alloc&) {
    return fail(speaker, "out of memory", 1);
  } catch (const std::exception& error) {
    return fail(speaker, error.what(), 1);
  }
}
