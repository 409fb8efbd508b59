// What the suites about Config share.
#pragma once

#include <functional>
#include <string>

#include "flowmap/base/config.h"
#include "flowmap/base/error.h"

namespace flowmap {

// The message of the UsageError that `action` throws, or what happened instead.
inline std::string usage_message(const std::function<void()>& action) {
  try {
    action();
  } catch (const UsageError& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another exception: ") + error.what();
  }
  return "nothing was thrown";
}

// Line 1 is empty, so that "trainer" is on line 2.
inline const char* const kExample = R"(
{ "trainer": {
    "lr": 1e-3,        // a comment
    "batch": 64,
    /* more
       than one line */
    "ema": [0.5, 1, 10,],
    "xflip": true,
    "name": "Adam",
    "stop": null,
  },
  "stages": [
    {"steps": 4},
    {"steps": 2},
  ],
}
)";

inline Config example() { return Config::from_text(kExample, "configs/a.json"); }

}  // namespace flowmap
