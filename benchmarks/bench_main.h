// What a benchmark's main does with errors: as the program's, exit code 2 for usage.
#pragma once

#include <cstdio>
#include <exception>

#include "flowmap/base/error.h"

namespace flowmap {

// run(argc, argv) gives the exit code.
template <class Run>
int bench_main(const char* name, Run run, int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const UsageError& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
}

}  // namespace flowmap
