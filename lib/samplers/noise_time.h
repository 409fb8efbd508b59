// Noise levels as functions of the variable that EDM's ablations integrate in (Karras et al.
// 2022, arXiv 2206.00364, table 1 and appendix C).
#pragma once

namespace flowmap::samplers {

// The VP schedule sigma(t)^2 = exp(beta_d t^2/2 + beta_min t) - 1.
struct VpSchedule {
  double beta_d = 19.9, beta_min = 0.1;

  // The one with sigma(epsilon_s) = sigma_min and sigma(1) = sigma_max.
  static VpSchedule through(double sigma_min, double sigma_max, double epsilon_s);
  double sigma(double t) const;
  double sigma_rate(double t) const;  // d sigma / dt
  double time(double sigma) const;
};

// x_t = s(t) (x1 + sigma(t) n), n unit normal. sigma(t): linear t, ve sqrt(t), vp above;
// s(t): 1, or with `vp_scaling` (1 + sigma^2)^-1/2.
class NoiseTime {
 public:
  enum class Kind { linear, ve, vp };
  explicit NoiseTime(Kind kind = Kind::linear, bool vp_scaling = false,
                     const VpSchedule& vp = {})
      : kind_(kind), vp_scaling_(vp_scaling), vp_(vp) {}

  bool is_plain() const { return kind_ == Kind::linear && !vp_scaling_; }
  double sigma(double t) const;
  double sigma_rate(double t) const;
  double time(double sigma) const;  // t(0) = 0
  double scale(double t) const;
  // (ds/dt) / s
  double log_scale_rate(double t) const;

 private:
  Kind kind_;
  bool vp_scaling_;
  VpSchedule vp_;
};

}  // namespace flowmap::samplers
