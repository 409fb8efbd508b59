#include "flowmap/train/phema.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "flowmap/base/error.h"
#include "flowmap/train/ema.h"

namespace flowmap {
namespace {

// Neighbouring snapshots have nearly equal profiles: the Gram matrix loses half of the
// digits of a double, so everything here is long double.
struct KnownExponent {
  long double images, exponent;
};

KnownExponent with_exponent(const PowerProfile& profile) {
  FM_CHECK(profile.images > 0 && std::isfinite(profile.images),
           "power profile at ", profile.images, " images; it begins after the first");
  return {profile.images, power_exponent(profile.std)};
}

// The power in logarithms: exponents go into the thousands.
long double product_of(const KnownExponent& a, const KnownExponent& b) {
  const bool a_is_later = a.images >= b.images;
  const KnownExponent& later = a_is_later ? a : b;
  const KnownExponent& earlier = a_is_later ? b : a;
  const long double power =
      std::exp(later.exponent * std::log(earlier.images / later.images));
  return (a.exponent + 1) * (b.exponent + 1) /
         ((a.exponent + b.exponent + 1) * later.images) * power;
}

// Cosine of the angle between two profiles.
long double cosine_of(const KnownExponent& a, const KnownExponent& b) {
  return product_of(a, b) / std::sqrt(product_of(a, a) * product_of(b, b));
}

// Solves A x = b for a positive semidefinite A with unit diagonal by Cholesky with
// diagonal pivoting; rows that the ones before them span to rounding are left at 0.
std::vector<long double> solve_pivoted(std::vector<std::vector<long double>> a,
                                       std::vector<long double> b) {
  const std::size_t n = b.size();
  std::vector<std::size_t> order(n);
  for (std::size_t i = 0; i < n; ++i) order[i] = i;
  constexpr long double kSmallestPivot = 1e-16L;
  std::size_t rank = 0;
  for (; rank < n; ++rank) {
    std::size_t best = rank;
    for (std::size_t i = rank + 1; i < n; ++i)
      if (a[i][i] > a[best][best]) best = i;
    if (!(a[best][best] > kSmallestPivot)) break;
    std::swap(order[rank], order[best]);
    std::swap(b[rank], b[best]);
    std::swap(a[rank], a[best]);
    for (auto& row : a) std::swap(row[rank], row[best]);
    const long double root = std::sqrt(a[rank][rank]);
    a[rank][rank] = root;
    for (std::size_t i = rank + 1; i < n; ++i) a[i][rank] /= root;
    for (std::size_t j = rank + 1; j < n; ++j)
      for (std::size_t i = j; i < n; ++i) {
        a[i][j] -= a[i][rank] * a[j][rank];
        a[j][i] = a[i][j];
      }
  }
  for (std::size_t i = 0; i < rank; ++i) {
    for (std::size_t k = 0; k < i; ++k) b[i] -= a[i][k] * b[k];
    b[i] /= a[i][i];
  }
  for (std::size_t i = rank; i-- > 0;) {
    for (std::size_t k = i + 1; k < rank; ++k) b[i] -= a[k][i] * b[k];
    b[i] /= a[i][i];
  }
  std::vector<long double> x(n, 0);
  for (std::size_t i = 0; i < rank; ++i) x[order[i]] = b[i];
  return x;
}

}  // namespace

double profile_product(const PowerProfile& a, const PowerProfile& b) {
  return static_cast<double>(product_of(with_exponent(a), with_exponent(b)));
}

PosthocSolution solve_posthoc(const std::vector<PowerProfile>& saved,
                              const PowerProfile& wanted) {
  FM_CHECK(!saved.empty(), "post-hoc EMA: no saved averages to combine");
  const std::size_t n = saved.size();
  std::vector<KnownExponent> known;
  for (const PowerProfile& profile : saved) known.push_back(with_exponent(profile));
  const KnownExponent target = with_exponent(wanted);
  std::vector<std::vector<long double>> gram(n, std::vector<long double>(n));
  std::vector<long double> to_target(n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) gram[i][j] = cosine_of(known[i], known[j]);
    to_target[i] = cosine_of(known[i], target);
  }
  std::vector<long double> x = solve_pivoted(gram, to_target);

  // From unit profiles to densities, and to sum 1: weights that stand still stay.
  std::vector<long double> length(n);
  long double total = 0;
  for (std::size_t i = 0; i < n; ++i) {
    length[i] = std::sqrt(product_of(known[i], known[i]));
    x[i] /= length[i];
    total += x[i];
  }
  PosthocSolution solution;
  for (long double& value : x) {
    value /= total;
    solution.coefficients.push_back(static_cast<double>(value));
  }
  const long double wanted_length = std::sqrt(product_of(target, target));
  long double squares = 1;
  for (std::size_t i = 0; i < n; ++i) {
    const long double xi = x[i] * length[i] / wanted_length;
    squares -= 2 * xi * to_target[i];
    for (std::size_t j = 0; j < n; ++j)
      squares += xi * gram[i][j] * x[j] * length[j] / wanted_length;
  }
  solution.residual = std::sqrt(std::max(static_cast<double>(squares), 0.0));
  return solution;
}

}  // namespace flowmap
