// flowmap pairs verify.
#pragma once

#include <span>
#include <string>

namespace flowmap::apps {

// Makes some pairs again and compares. Exit code 0, or Error where they differ.
int run_pairs_verify(std::span<const std::string> arguments);

}  // namespace flowmap::apps
