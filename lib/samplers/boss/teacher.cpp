#include "samplers/boss/teacher.h"

#include <ATen/ATen.h>

#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "samplers/ode.h"
#include "samplers/rk45.h"

namespace flowmap::samplers {
namespace {

struct NamedTeacher {
  const char* name;
  TeacherOptions::Solver solver;
};
constexpr NamedTeacher kTeachers[] = {{"euler", TeacherOptions::Solver::euler},
                                      {"heun", TeacherOptions::Solver::heun},
                                      {"rk45", TeacherOptions::Solver::rk45}};

void require_finite_states(const TeacherPath& path) {
  // One row may be NaN at the end and finite at first: look at the end, then for where.
  if (path.states[path.steps()].isfinite().all().item<bool>()) return;
  const at::Tensor finite = path.states.isfinite().all(2).to(at::kCPU);  // [T+1, B]
  for (int64_t i = 0; i < finite.size(0); ++i)
    for (int64_t row = 0; row < finite.size(1); ++row)
      FM_CHECK(finite[i][row].item<bool>(), "the teacher's state is not finite (NaN or "
               "infinite) in row ", row, " from anchor ", i, " (",
               path.anchors[static_cast<std::size_t>(i)],
               ") on; the network cannot be searched: check its weights, --key, or use "
               "--dtype float32");
}

}  // namespace

TeacherOptions::Solver parse_teacher_solver(const std::string& name,
                                            const std::string& flag) {
  std::vector<std::string> names;
  for (const NamedTeacher& teacher : kTeachers) {
    if (name == teacher.name) return teacher.solver;
    names.emplace_back(teacher.name);
  }
  throw UsageError(flag + ": no solver of teachers is called '" + name + "'" +
                   suggestion(name, names));
}

const char* teacher_solver_name(TeacherOptions::Solver solver) {
  for (const NamedTeacher& teacher : kTeachers)
    if (solver == teacher.solver) return teacher.name;
  return "";
}

at::Tensor TeacherPath::slope(int64_t i) const {
  if (slopes.defined()) return slopes[i];
  const auto k = static_cast<std::size_t>(i);
  return (states[i + 1] - states[i]) / (anchors[k + 1] - anchors[k]);
}

TeacherPath teacher_path(Model& model, const at::Tensor& latents,
                         const Condition& condition, const Schedule& anchors,
                         const TeacherOptions& options) {
  const at::NoGradGuard no_grad;
  FM_CHECK_USAGE(anchors.times.size() >= 2, "a teacher needs two anchors or more");
  FM_CHECK_USAGE(options.substeps >= 1, "substeps: at least 1, not ", options.substeps);
  Ode ode(model, condition, anchors, latents);
  TeacherPath path;
  path.anchors = anchors.times;
  const int64_t steps = path.steps(), batch = latents.size(0);
  const bool adaptive = options.solver == TeacherOptions::Solver::rk45;
  const bool euler = options.solver == TeacherOptions::Solver::euler;
  at::Tensor x = ode.start(latents);
  const at::IntArrayRef shape = x.sizes();
  const auto flat = [&](const at::Tensor& a) { return a.reshape({batch, -1}); };
  path.states = at::empty({steps + 1, batch, x.numel() / batch}, x.options());
  if (!euler || options.substeps > 1)
    path.slopes = at::empty({steps, batch, x.numel() / batch}, x.options());
  if (adaptive) {
    // A schedule of one step to sigma 0 has nothing to adapt.
    Rk45Options rk45;
    rk45.rtol = options.rtol;
    rk45.atol = options.atol;
    rk45.keep_knots = true;
    const Rk45Solution solution = solve_rk45(model, latents, condition, anchors, rk45);
    path.states.copy_(solution.knots.reshape(path.states.sizes()));
    for (int64_t i = 0; i < steps; ++i)
      path.slopes[i].copy_(flat(ode.slope(path.states[i].reshape(shape),
                                          path.anchors[static_cast<std::size_t>(i)])));
    require_finite_states(path);
    return path;
  }
  path.states[0].copy_(flat(x));
  for (int64_t i = 0; i < steps; ++i) {
    const double from = path.anchors[static_cast<std::size_t>(i)];
    const double to = path.anchors[static_cast<std::size_t>(i) + 1];
    for (int64_t sub = 0; sub < options.substeps; ++sub) {
      const auto place = [&](int64_t n) {
        return n == options.substeps
                   ? to
                   : from + (to - from) * static_cast<double>(n) /
                                static_cast<double>(options.substeps);
      };
      const double a = place(sub), b = place(sub + 1);
      const at::Tensor slope = ode.slope(x, a);
      if (sub == 0 && path.slopes.defined()) path.slopes[i].copy_(flat(slope));
      at::Tensor next = x + (b - a) * slope;
      // The slope is singular at sigma 0: the last step there is Euler's.
      if (!euler && !(anchors.sigma && b == 0))
        next = x + 0.5 * (b - a) * (slope + ode.slope(next, b));
      x = next;
    }
    path.states[i + 1].copy_(flat(x));
  }
  require_finite_states(path);
  return path;
}

int64_t teacher_evaluations(const Schedule& anchors, const TeacherOptions& options) {
  const int64_t steps =
      (static_cast<int64_t>(anchors.times.size()) - 1) * options.substeps;
  switch (options.solver) {
    case TeacherOptions::Solver::euler: return steps;
    case TeacherOptions::Solver::heun:
      return 2 * steps - (anchors.sigma && anchors.times.back() == 0 ? 1 : 0);
    case TeacherOptions::Solver::rk45: break;
  }
  return 0;
}

}  // namespace flowmap::samplers
