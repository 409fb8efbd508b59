// Grids of noise levels from high to low (Karras et al. 2022, arXiv 2206.00364, table 1).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace flowmap::samplers {

// By the names and defaults of EDM's generate.py.
struct NoiseGrid {
  std::string discretization = "edm";  // vp, ve, iddpm, edm
  double sigma_min = 0, sigma_max = 0;
  double rho = 7;                      // edm
  double epsilon_s = 1e-3;             // vp: the lowest time, in (0, 1)
  double c_1 = 1e-3, c_2 = 8e-3;       // iddpm: least ratio of alphas, offset
  int64_t m = 1000;                    // iddpm: levels
};

// Throws UsageError where there is no such grid.
void check_discretization(const std::string& name);
// [sigma_min, sigma_max] of a discretization, for networks that know all levels.
std::pair<double, double> default_noise_range(const std::string& discretization,
                                              double epsilon_s);
// The n falling levels and a final 0. Throws UsageError where the range is empty or an
// option is out of range, naming its flag.
std::vector<double> noise_levels_of(const NoiseGrid& grid, int64_t n);

}  // namespace flowmap::samplers
