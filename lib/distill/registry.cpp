#include "distill/method.h"

namespace flowmap::distill {

std::shared_ptr<Task> make_flow_matching(const BuildContext&);
std::shared_ptr<Task> make_edm(const BuildContext&);
std::shared_ptr<Task> make_edm2(const BuildContext&);
// The flow-map family (flow_map/residual.h).
std::shared_ptr<Task> make_lsd(const BuildContext&);
std::shared_ptr<Task> make_esd(const BuildContext&);
std::shared_ptr<Task> make_psd(const BuildContext&);
std::shared_ptr<Task> make_meanflow(const BuildContext&);
std::shared_ptr<Task> make_improved_meanflow(const BuildContext&);
std::shared_ptr<Task> make_alpha_flow(const BuildContext&);
std::shared_ptr<Task> make_consistency(const BuildContext&);
std::shared_ptr<Task> make_ayf_emd(const BuildContext&);
std::shared_ptr<Task> make_ayf_lmd(const BuildContext&);
std::shared_ptr<Task> make_tvm(const BuildContext&);
std::shared_ptr<Task> make_shortcut(const BuildContext&);
std::shared_ptr<Task> make_chord(const BuildContext&);
std::shared_ptr<Task> make_fmm(const BuildContext&);
// From pairs of noise and sample (reflow/).
std::shared_ptr<Task> make_reflow(const BuildContext&);
std::shared_ptr<Task> make_annealing_reflow(const BuildContext&);
std::shared_ptr<Task> make_one_step_distillation(const BuildContext&);
std::shared_ptr<Task> make_flow_guided_distillation(const BuildContext&);
std::shared_ptr<Task> make_progressive_distillation(const BuildContext&);
std::shared_ptr<Task> make_boss_straighten(const BuildContext&);
std::shared_ptr<Task> make_classifier(const BuildContext&);

const std::vector<MethodEntry>& method_registry() {
  static const std::vector<MethodEntry> entries = {
      {"flow_matching", "velocity regression on the linear interpolant",
       "Lipman et al. 2023, arXiv 2210.02747", make_flow_matching},
      {"edm", "denoising with EDM's weighting", "Karras et al. 2022, arXiv 2206.00364",
       make_edm},
      {"edm2", "denoising with EDM's weighting over a learned uncertainty",
       "Karras et al. 2024, arXiv 2312.02696", make_edm2},
      {"lsd", "Lagrangian self-distillation of a flow map, or distillation (LMD)",
       "Boffi et al. 2025, arXiv 2505.18825", make_lsd},
      {"esd", "Eulerian self-distillation, or distillation (EMD)",
       "Boffi et al. 2025, arXiv 2505.18825", make_esd},
      {"psd", "progressive self-distillation, or distillation in rounds (PFMM)",
       "Boffi et al. 2025, arXiv 2505.18825", make_psd},
      {"meanflow", "average velocities from the MeanFlow identity",
       "Geng et al. 2025, arXiv 2505.13447", make_meanflow},
      {"improved_meanflow", "MeanFlow along the network's own velocity",
       "Geng et al. 2025, arXiv 2512.02012", make_improved_meanflow},
      {"alpha_flow", "from flow matching to MeanFlow by a curriculum",
       "Zhang et al. 2025, arXiv 2510.20771", make_alpha_flow},
      {"consistency", "jumps to the data: consistency training, or distillation",
       "Song et al. 2023, arXiv 2303.01469", make_consistency},
      {"ayf_emd", "Align Your Flow, Eulerian: consistency distillation between any times",
       "Sabour et al. 2025, arXiv 2506.14603", make_ayf_emd},
      {"ayf_lmd", "Align Your Flow, Lagrangian, derivatives detached",
       "Sabour et al. 2025, arXiv 2506.14603", make_ayf_lmd},
      {"tvm", "terminal velocity matching", "Zhou et al. 2025, arXiv 2511.19797", make_tvm},
      {"shortcut", "shortcut models: two half steps on a dyadic grid",
       "Frans et al. 2024, arXiv 2410.12557", make_shortcut},
      {"chord", "regression of the chords of a teacher's flow",
       "Hu et al. 2025, arXiv 2509.24526", make_chord},
      {"fmm", "two-sided flow map matching, no teacher",
       "Boffi et al. 2024, arXiv 2406.07507", make_fmm},
      {"reflow", "flow matching along a teacher's pairs: straighter paths",
       "Liu et al. 2023, arXiv 2209.03003; Lee et al. 2024, arXiv 2405.20320",
       make_reflow},
      {"annealing_reflow", "reflow into a smaller network, from independent noise to pairs",
       "Zhu et al. 2024, arXiv 2407.12718", make_annealing_reflow},
      {"one_step_distillation", "one step from the noise of a pair to its sample",
       "Liu et al. 2023, arXiv 2209.03003", make_one_step_distillation},
      {"flow_guided_distillation", "the same, and two steps with a frozen guide",
       "Zhu et al. 2024, arXiv 2407.12718", make_flow_guided_distillation},
      {"progressive_distillation", "half of the steps in every round",
       "Salimans and Ho 2022, arXiv 2202.00512", make_progressive_distillation},
      {"boss_straighten", "straight paths between the knots of a searched schedule",
       "Nguyen et al. 2024, arXiv 2312.16414", make_boss_straighten},
      {"classifier", "a classifier of labelled images, for detectors", "",
       make_classifier},
  };
  return entries;
}

}  // namespace flowmap::distill
