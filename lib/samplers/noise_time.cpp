#include "samplers/noise_time.h"

#include <cmath>

namespace flowmap::samplers {

VpSchedule VpSchedule::through(double sigma_min, double sigma_max, double epsilon_s) {
  const double low = std::log1p(sigma_min * sigma_min);
  const double high = std::log1p(sigma_max * sigma_max);
  VpSchedule vp;
  vp.beta_d = 2 * (low / epsilon_s - high) / (epsilon_s - 1);
  vp.beta_min = high - 0.5 * vp.beta_d;
  return vp;
}

double VpSchedule::sigma(double t) const {
  return std::sqrt(std::expm1(0.5 * beta_d * t * t + beta_min * t));
}

double VpSchedule::sigma_rate(double t) const {
  const double level = sigma(t);
  return 0.5 * (beta_min + beta_d * t) * (level + 1 / level);
}

double VpSchedule::time(double sigma) const {
  const double log_growth = std::log1p(sigma * sigma);
  return (std::sqrt(beta_min * beta_min + 2 * beta_d * log_growth) - beta_min) / beta_d;
}

double NoiseTime::sigma(double t) const {
  switch (kind_) {
    case Kind::ve: return std::sqrt(t);
    case Kind::vp: return vp_.sigma(t);
    case Kind::linear: break;
  }
  return t;
}

double NoiseTime::sigma_rate(double t) const {
  switch (kind_) {
    case Kind::ve: return 0.5 / std::sqrt(t);
    case Kind::vp: return vp_.sigma_rate(t);
    case Kind::linear: break;
  }
  return 1;
}

double NoiseTime::time(double sigma) const {
  if (sigma == 0) return 0;
  switch (kind_) {
    case Kind::ve: return sigma * sigma;
    case Kind::vp: return vp_.time(sigma);
    case Kind::linear: break;
  }
  return sigma;
}

double NoiseTime::scale(double t) const {
  if (!vp_scaling_) return 1;
  const double level = sigma(t);
  return 1 / std::sqrt(1 + level * level);
}

double NoiseTime::log_scale_rate(double t) const {
  if (!vp_scaling_) return 0;
  const double level = sigma(t);
  return -level * sigma_rate(t) / (1 + level * level);
}

}  // namespace flowmap::samplers
