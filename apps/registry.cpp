#include "apps/cli.h"

namespace flowmap::apps {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> table{
      {"train", "train a network from a configuration file", run_train},
      {"generate", "images (or points) from seeds and a snapshot", &run_generate},
      {"evaluate", "the network at given tensors, with derivatives", &run_evaluate},
      {"fid", "distances of samples from a reference (calc, ref)", &run_fid},
      {"sheet", "one labelled picture out of several sets of images", &run_sheet},
      {"convert", "weights of any known program into a snapshot, and back",
       &run_convert},
      {"inspect", "what a snapshot or an archive holds", &run_inspect},
      {"doctor", "what this build and this machine have, and what is missing",
       &run_doctor},
  };
  return table;
}

}  // namespace flowmap::apps
