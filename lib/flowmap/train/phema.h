// Post-hoc EMA (Karras et al. 2024, arXiv 2312.02696, section 3 and appendix C): the
// average of weights under a power profile that nobody tracked, as a linear combination
// of averages that were saved during the run.
#pragma once

#include <vector>

namespace flowmap {

// p(x) = (g+1)/n (x/n)^g for x in [0, n]: the share of the weights after x images in an
// average read after n = `images`; g = power_exponent(std).
struct PowerProfile {
  double images = 0;  // above 0
  double std = 0.1;   // relative, in (0, 0.2886)
};

// Inner product of two profiles over all images, in 1/images (eq. 143 and its text):
// (g_a+1)(g_b+1) / ((g_a+g_b+1) n_max) (n_min/n_max)^(g of the later one).
double profile_product(const PowerProfile& a, const PowerProfile& b);

struct PosthocSolution {
  // One for each saved profile, their sum is 1. Averages that the others already span to
  // rounding get 0.
  std::vector<double> coefficients;
  // |combination - wanted| / |wanted| in the norm of the inner product: 0 where the
  // wanted profile is reached exactly.
  double residual = 0;
};

// Least squares in that norm (algorithm 3). Throws Error where `saved` is empty or a
// profile is out of range.
PosthocSolution solve_posthoc(const std::vector<PowerProfile>& saved,
                              const PowerProfile& wanted);

}  // namespace flowmap
