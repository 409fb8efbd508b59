#include "apps/cli.h"

namespace flowmap::apps {

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> table{
      {"train", "train a network from a configuration file", run_train},
      {"generate", "images (or points) from seeds and a snapshot", &run_generate},
      {"pairs", "noise and what a teacher makes of it, to learn from (verify, merge, inspect)",
       &run_pairs},
      {"invert", "latents that give images back, by the ODE from data to noise",
       &run_invert},
      {"boss", "the best steps of a network for every budget (search, report)", &run_boss},
      {"evaluate", "the network at given tensors, with derivatives", &run_evaluate},
      {"fid", "distances of samples from a reference (calc, ref)", &run_fid},
      {"dataset", "pictures of any source into a data set, and its facts (convert, inspect)",
       &run_dataset},
      {"sheet", "one labelled picture out of several sets of images", &run_sheet},
      {"reconstruct_phema", "averages of a run under profiles chosen afterwards",
       &run_reconstruct_phema},
      {"convert", "weights of any known program into a snapshot, and back",
       &run_convert},
      {"inspect", "what a snapshot or an archive holds", &run_inspect},
      {"doctor", "what this build and this machine have, and what is missing",
       &run_doctor},
  };
  return table;
}

}  // namespace flowmap::apps
