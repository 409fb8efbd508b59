#include "distill/method.h"

namespace flowmap::distill {

std::shared_ptr<Task> make_flow_matching(const BuildContext&);
std::shared_ptr<Task> make_edm(const BuildContext&);
std::shared_ptr<Task> make_edm2(const BuildContext&);
std::shared_ptr<Task> make_lsd(const BuildContext&);
std::shared_ptr<Task> make_classifier(const BuildContext&);

const std::vector<MethodEntry>& method_registry() {
  static const std::vector<MethodEntry> entries = {
      {"flow_matching", "velocity regression on the linear interpolant",
       "Lipman et al. 2023, arXiv 2210.02747", make_flow_matching},
      {"edm", "denoising with EDM's weighting", "Karras et al. 2022, arXiv 2206.00364",
       make_edm},
      {"edm2", "denoising with EDM's weighting over a learned uncertainty",
       "Karras et al. 2024, arXiv 2312.02696", make_edm2},
      {"lsd", "Lagrangian self-distillation of a flow map",
       "Boffi et al. 2025, arXiv 2505.18825", make_lsd},
      {"classifier", "a classifier of labelled images, for detectors", "",
       make_classifier},
  };
  return entries;
}

}  // namespace flowmap::distill
