// flowmap boss: the best steps for a network and a budget, found without training.
#include <string>
#include <vector>

#include "apps/boss_options.h"
#include "apps/cli.h"
#include "flowmap/base/error.h"
#include "flowmap/base/log.h"
#include "flowmap/base/text.h"

namespace flowmap::apps {

int run_boss(std::span<const std::string> arguments) {
  const std::string help =
      "flowmap boss search --network FILE --nfe 1-10 --dest FILE.json\n"
      "    searches the schedules (Bellman optimal steps) of a network\n"
      "flowmap boss report --network FILE --schedule FILE.json\n"
      "    straightness, and the end error of every schedule at each budget\n"
      "flowmap boss search --help, flowmap boss report --help: all flags";
  if (arguments.empty()) throw UsageError("boss: search or report?\n" + help);
  const std::string& what = arguments[0];
  if (what == "--help" || what == "-h") {
    log_line(help);
    return 0;
  }
  if (what == "search") return run_boss_search(arguments.subspan(1));
  if (what == "report") return run_boss_report(arguments.subspan(1));
  static const std::vector<std::string> known{"search", "report"};
  throw UsageError("boss: no command '" + what + "'" + suggestion(what, known));
}

}  // namespace flowmap::apps
