#include "flowmap/ops_pairwise.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>

#include "flowmap/base/error.h"
#include "flowmap/ops_device.h"
#include "kernels/api.h"

namespace flowmap::ops {
namespace {

// Both sets where the kernel runs: at home on a GPU, else on the CPU.
struct PairTask {
  PairTask(const at::Tensor& x_given, const at::Tensor& y_given) {
    FM_CHECK(x_given.dim() == 2 && y_given.dim() == 2 &&
                 x_given.size(1) == y_given.size(1) && x_given.size(1) > 0,
             "pairs of rows [n, d] and [m, d], not ", x_given.sizes(), " and ",
             y_given.sizes());
    FM_CHECK(x_given.scalar_type() == at::kFloat && y_given.scalar_type() == at::kFloat &&
                 x_given.device() == y_given.device(),
             "pairs of rows of float32 on one device, not ", x_given.toString(), " on ",
             x_given.device().str(), " and ", y_given.toString(), " on ",
             y_given.device().str());
    home = x_given.device();
    on_gpu = home.is_cuda() && kernels::cuda_compiled();
    const at::Device where = on_gpu ? home : at::Device(at::kCPU);
    x = x_given.detach().to(where).contiguous();
    y = y_given.detach().to(where).contiguous();
    pairs.x_rows = x.size(0);
    pairs.y_rows = y.size(0);
    pairs.dimensions = x.size(1);
    pairs.x = x.const_data_ptr<float>();
    pairs.y = y.const_data_ptr<float>();
  }

  at::Tensor there(const at::Tensor& radii, int64_t count) const {
    FM_CHECK(radii.dim() == 1 && radii.size(0) == count &&
                 radii.scalar_type() == at::kDouble,
             "squared radii are float64 [", count, "], not ", radii.toString(), " ",
             radii.sizes());
    return radii.detach().to(x.device()).contiguous();
  }

  // The rows [begin, end) of x against all of y, by fn(pairs of those rows, begin).
  template <class Fn>
  void on_cpu(Fn fn) const {
    // A thread packs y for itself: enough rows to make that a small part.
    constexpr int64_t kRows = 96;
    at::parallel_for(0, pairs.x_rows, kRows, [&](int64_t begin, int64_t end) {
      kernels::RowPairs part = pairs;
      part.x += begin * pairs.dimensions;
      part.x_rows = end - begin;
      fn(part, begin);
    });
  }

  at::Device home = at::kCPU;
  bool on_gpu = false;
  at::Tensor x, y;
  kernels::RowPairs pairs;
};

at::Tensor count_pairs(const at::Tensor& x, const at::Tensor& y, const at::Tensor& radii,
                       bool of_x, bool inclusive) {
  const PairTask task(x, y);
  const at::Tensor given = task.there(radii, of_x ? x.size(0) : y.size(0));
  const auto* squares = given.const_data_ptr<double>();
  at::Tensor out = at::zeros({x.size(0)}, task.x.options().dtype(at::kLong));
  auto* to = out.mutable_data_ptr<std::int64_t>();
  if (out.size(0) == 0 || y.size(0) == 0) return out.to(task.home);
  if (task.on_gpu) {
    const c10::DeviceGuard guard(task.home);
    kernels::count_within_cuda(task.pairs, of_x ? squares : nullptr,
                               of_x ? nullptr : squares, inclusive, to,
                               detail::current_stream(task.home));
    return out;
  }
  task.on_cpu([&](const kernels::RowPairs& part, int64_t begin) {
    kernels::count_within_cpu(part, of_x ? squares + begin : nullptr,
                              of_x ? nullptr : squares, inclusive, to + begin);
  });
  return out.to(task.home);
}

}  // namespace

at::Tensor squared_distances(const at::Tensor& x, const at::Tensor& y) {
  const PairTask task(x, y);
  at::Tensor out = at::empty({x.size(0), y.size(0)}, task.x.options().dtype(at::kDouble));
  auto* to = out.mutable_data_ptr<double>();
  if (task.on_gpu) {
    const c10::DeviceGuard guard(task.home);
    kernels::squared_distances_cuda(task.pairs, to, detail::current_stream(task.home));
    return out;
  }
  task.on_cpu([&](const kernels::RowPairs& part, int64_t begin) {
    kernels::squared_distances_cpu(part, to + begin * part.y_rows);
  });
  return out.to(task.home);
}

at::Tensor count_within_own(const at::Tensor& x, const at::Tensor& y,
                            const at::Tensor& x_radii, bool inclusive) {
  return count_pairs(x, y, x_radii, true, inclusive);
}

at::Tensor count_within_others(const at::Tensor& x, const at::Tensor& y,
                               const at::Tensor& y_radii, bool inclusive) {
  return count_pairs(x, y, y_radii, false, inclusive);
}

at::Tensor polynomial_sums(const at::Tensor& x, const at::Tensor& y, int64_t skip) {
  const PairTask task(x, y);
  at::Tensor out = at::zeros({x.size(0)}, task.x.options().dtype(at::kDouble));
  auto* to = out.mutable_data_ptr<double>();
  if (task.on_gpu) {
    const c10::DeviceGuard guard(task.home);
    kernels::polynomial_sums_cuda(task.pairs, skip, to,
                                  detail::current_stream(task.home));
    return out;
  }
  task.on_cpu([&](const kernels::RowPairs& part, int64_t begin) {
    // Row i of the part is row begin + i: j - (begin + i) == skip.
    kernels::polynomial_sums_cpu(part, skip == kSkipNone ? skip : skip + begin,
                                 to + begin);
  });
  return out.to(task.home);
}

}  // namespace flowmap::ops
