#include "samplers/noise_grid.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/noise_time.h"

namespace flowmap::samplers {
namespace {

const std::vector<std::string> kDiscretizations{"vp", "ve", "iddpm", "edm"};

void check_grid(const NoiseGrid& grid, int64_t n) {
  check_discretization(grid.discretization);
  if (!(grid.rho > 0) || std::isinf(grid.rho))
    throw UsageError(format("--rho: a finite number above 0, not %g", grid.rho));
  if (!(grid.epsilon_s > 0 && grid.epsilon_s < 1))
    throw UsageError(format("--epsilon_s: a number between 0 and 1, not %g",
                            grid.epsilon_s));
  if (!(grid.c_1 > 0) || !(grid.c_2 >= 0))
    throw UsageError(format("--C_1, --C_2: above 0 and at least 0, not %g and %g",
                            grid.c_1, grid.c_2));
  if (grid.m < 1)
    throw UsageError(format("--M: at least 1, not %lld", static_cast<long long>(grid.m)));
  if (n > 1 && !(grid.sigma_min < grid.sigma_max))
    throw UsageError(format("--sigma_min: %g is not below --sigma_max %g", grid.sigma_min,
                            grid.sigma_max));
}

// The levels of Nichol and Dhariwal (2021) in [sigma_min, sigma_max], falling.
std::vector<double> iddpm_levels(const NoiseGrid& grid) {
  const auto m = static_cast<std::size_t>(grid.m);
  const auto alpha_bar = [&](std::size_t j) {
    const double sine = std::sin(0.5 * std::numbers::pi * static_cast<double>(j) /
                                 static_cast<double>(m) / (grid.c_2 + 1));
    return sine * sine;
  };
  std::vector<double> u(m + 1, 0);
  for (std::size_t j = m; j > 0; --j) {
    const double ratio = std::max(alpha_bar(j - 1) / alpha_bar(j), grid.c_1);
    u[j - 1] = std::sqrt((u[j] * u[j] + 1) / ratio - 1);
  }
  std::erase_if(u, [&](double level) {
    return level < grid.sigma_min || level > grid.sigma_max;
  });
  return u;
}

}  // namespace

void check_discretization(const std::string& name) {
  const bool known = std::count(kDiscretizations.begin(), kDiscretizations.end(), name) > 0;
  FM_CHECK_USAGE(known, "--disc: unknown discretization '", name, "'",
                 suggestion(name, kDiscretizations), " (known: ",
                 join(kDiscretizations, ", "), ")");
}

std::pair<double, double> default_noise_range(const std::string& discretization,
                                              double epsilon_s) {
  if (discretization == "vp") return {VpSchedule().sigma(epsilon_s), VpSchedule().sigma(1)};
  if (discretization == "ve") return {0.02, 100};
  if (discretization == "iddpm") return {0.002, 81};
  return {0.002, 80};
}

std::vector<double> noise_levels_of(const NoiseGrid& grid, int64_t n) {
  check_grid(grid, n);
  const double low = grid.sigma_min, high = grid.sigma_max;
  std::vector<double> levels;
  const auto fill = [&](const auto& level) {
    for (int64_t i = 0; i < n; ++i)
      levels.push_back(level(n > 1 ? static_cast<double>(i) / static_cast<double>(n - 1) : 0));
  };
  if (grid.discretization == "vp") {
    const auto vp = VpSchedule::through(low, high, grid.epsilon_s);
    fill([&](double u) { return vp.sigma(1 + u * (grid.epsilon_s - 1)); });
  } else if (grid.discretization == "ve") {
    fill([&](double u) { return high * std::pow(low / high, u); });
  } else if (grid.discretization == "iddpm") {
    const std::vector<double> u = iddpm_levels(grid);
    if (static_cast<int64_t>(u.size()) < n)
      throw UsageError(format("--disc iddpm: only %zu of the %lld levels lie in [%g, %g], "
                              "too few for --steps %lld; raise --M", u.size(),
                              static_cast<long long>(grid.m), low, high,
                              static_cast<long long>(n)));
    const auto last = static_cast<double>(u.size() - 1);
    fill([&](double at) { return u[static_cast<std::size_t>(std::nearbyint(last * at))]; });
  } else {
    // Eq. 5. Exact ends: pow(pow(s, 1/rho), rho) is off in the last bit.
    const double first = std::pow(high, 1 / grid.rho), last = std::pow(low, 1 / grid.rho);
    fill([&](double u) { return std::pow(first + u * (last - first), grid.rho); });
    levels.front() = high;
    if (n > 1) levels.back() = low;
  }
  levels.push_back(0);
  return levels;
}

}  // namespace flowmap::samplers
