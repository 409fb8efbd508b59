#include "flowmap/ops_resize.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "flowmap/base/error.h"
#include "flowmap/ops_device.h"
#include "kernels/api.h"

namespace flowmap::ops {
namespace {

ResizeTable empty_table(int64_t inputs, int64_t outputs, int64_t taps) {
  FM_CHECK_USAGE(inputs >= 1 && outputs >= 1 && inputs < (int64_t{1} << 24) &&
                     outputs < (int64_t{1} << 24),
                 "cannot resize ", inputs, " pixels to ", outputs,
                 ": sizes are 1 to 2^24 - 1");
  return {inputs, at::zeros({outputs}, at::kInt), at::ones({outputs}, at::kInt),
          at::zeros({taps, outputs}, at::kDouble)};
}

// Two neighbours at a float32 position not below 0, the second held at the border.
template <class Position>
ResizeTable bilinear_table(int64_t inputs, int64_t outputs, Position position) {
  ResizeTable table = empty_table(inputs, outputs, std::min<int64_t>(2, inputs));
  const float step = static_cast<float>(inputs) / static_cast<float>(outputs);
  auto* first = table.first.mutable_data_ptr<std::int32_t>();
  auto* count = table.count.mutable_data_ptr<std::int32_t>();
  auto* weights = table.weights.mutable_data_ptr<double>();
  for (int64_t i = 0; i < outputs; ++i) {
    const float at = position(static_cast<float>(i), step);
    const auto low = std::min(static_cast<int64_t>(at), inputs - 1);
    const float high_weight = at - static_cast<float>(low);
    first[i] = static_cast<std::int32_t>(low);
    if (low + 1 < inputs) {
      count[i] = 2;
      weights[i] = 1.0f - high_weight;
      weights[outputs + i] = high_weight;
    } else {
      weights[i] = 1;  // both neighbours are the last pixel
    }
  }
  return table;
}

kernels::FilterAxis axis_of(const ResizeTable& table) {
  kernels::FilterAxis axis;
  axis.inputs = table.inputs;
  axis.outputs = table.outputs();
  axis.taps = table.weights.size(0);
  axis.first = table.first.const_data_ptr<std::int32_t>();
  axis.count = table.count.const_data_ptr<std::int32_t>();
  axis.weights = table.weights.const_data_ptr<double>();
  return axis;
}

void check_table(const ResizeTable& table, int64_t inputs, const char* what) {
  FM_CHECK_USAGE(table.inputs == inputs, "resizing: the table of the ", what, " is for ",
                 table.inputs, " pixels, the pictures have ", inputs);
  const bool well_made =
      table.first.dim() == 1 && table.count.sizes() == table.first.sizes() &&
      table.weights.dim() == 2 && table.weights.size(1) == table.first.size(0) &&
      table.weights.size(0) >= 1 && table.weights.size(0) <= inputs &&
      table.first.scalar_type() == at::kInt && table.count.scalar_type() == at::kInt &&
      table.weights.scalar_type() == at::kDouble && table.first.is_contiguous() &&
      table.count.is_contiguous() && table.weights.is_contiguous();
  FM_CHECK_USAGE(well_made, "resizing: the table of the ", what,
                 " is not as ResizeTable says");
  if (!table.first.is_cpu()) return;  // looked at before it was moved
  const auto* first = table.first.const_data_ptr<std::int32_t>();
  const auto* count = table.count.const_data_ptr<std::int32_t>();
  for (int64_t i = 0; i < table.outputs(); ++i)
    FM_CHECK_USAGE(first[i] >= 0 && count[i] >= 1 && count[i] <= table.weights.size(0) &&
                       first[i] + count[i] <= inputs,
                   "resizing: the table of the ", what, " takes ", count[i],
                   " pixels from ", first[i], " of ", inputs);
}

// The table as a matrix [outputs, inputs].
at::Tensor dense_table(const ResizeTable& table) {
  const int64_t taps = table.weights.size(0);
  const at::Tensor k = at::arange(taps, table.first.options()).unsqueeze(1);
  const at::Tensor at = (table.first + k).clamp_max(table.inputs - 1).to(at::kLong);
  const at::Tensor weights = table.weights * (k < table.count);
  return at::zeros({table.inputs, table.outputs()}, table.weights.options())
      .scatter_add_(0, at, weights)
      .t();
}

// On a device for which no kernel was compiled.
at::Tensor resize_by_products(const at::Tensor& pictures, const ResizeTable& rows,
                              const ResizeTable& columns, const PixelRange& range) {
  const at::Tensor across = at::matmul(pictures.to(at::kDouble), dense_table(columns).t());
  at::Tensor out = at::matmul(dense_table(rows), across.to(at::kFloat).to(at::kDouble));
  if (range.clip) out.clamp_(0, 255);
  out = out.sub_(range.shift).mul_(range.scale).to(at::kFloat);
  return out.expand({-1, 3, -1, -1}).contiguous();
}

}  // namespace

ResizeTable ResizeTable::to(const c10::Device& device) const {
  return {inputs, first.to(device), count.to(device), weights.to(device)};
}

ResizeTable pillow_table(int64_t inputs, int64_t outputs, ResampleFilter filter) {
  if (inputs == outputs) {
    ResizeTable table = empty_table(inputs, outputs, 1);
    table.first = at::arange(outputs, at::kInt);
    table.weights.fill_(1);
    return table;
  }
  static_cast<void>(empty_table(inputs, outputs, 1));  // checks the sizes
  const ResampleWeights plan = resample_weights(inputs, outputs, filter);
  const int64_t taps = *std::max_element(plan.count.begin(), plan.count.end());
  ResizeTable table = empty_table(inputs, outputs, taps);
  auto* weights = table.weights.mutable_data_ptr<double>();
  for (int64_t i = 0; i < outputs; ++i) {
    const auto at = static_cast<std::size_t>(i);
    table.first.mutable_data_ptr<std::int32_t>()[i] =
        static_cast<std::int32_t>(plan.first[at]);
    table.count.mutable_data_ptr<std::int32_t>()[i] =
        static_cast<std::int32_t>(plan.count[at]);
    for (int64_t k = 0; k < plan.count[at]; ++k)
      weights[k * outputs + i] =
          plan.weights[static_cast<std::size_t>(i * plan.taps + k)];
  }
  return table;
}

ResizeTable tensorflow_bilinear_table(int64_t inputs, int64_t outputs) {
  return bilinear_table(inputs, outputs, [](float i, float step) { return i * step; });
}

ResizeTable pytorch_bilinear_table(int64_t inputs, int64_t outputs) {
  return bilinear_table(inputs, outputs, [](float i, float step) {
    // LibTorch's is compiled to one rounding.
    return std::max(std::fma(step, i + 0.5f, -0.5f), 0.0f);
  });
}

at::Tensor resize_normalize(const at::Tensor& pictures, const ResizeTable& rows,
                            const ResizeTable& columns, const PixelRange& range) {
  FM_CHECK_USAGE(pictures.dim() == 4 && pictures.scalar_type() == at::kByte &&
                     (pictures.size(1) == 1 || pictures.size(1) == 3),
                 "resizing takes pictures of bytes [count, 1 or 3, height, width], not ",
                 pictures.toString(), " ", pictures.sizes());
  check_table(rows, pictures.size(2), "rows");
  check_table(columns, pictures.size(3), "columns");
  const at::Device device = pictures.device();
  if (!device.is_cpu() && !(device.is_cuda() && kernels::cuda_compiled()))
    return resize_by_products(pictures, rows.to(device), columns.to(device), range);

  const bool planar = pictures.is_contiguous();
  const bool interleaved = !planar && pictures.permute({0, 2, 3, 1}).is_contiguous();
  const at::Tensor in = planar || interleaved ? pictures : pictures.contiguous();
  const ResizeTable down = rows.to(device), across = columns.to(device);
  kernels::ResizeNormalize resize;
  resize.batch = in.size(0);
  resize.channels = in.size(1);
  resize.channels_last = interleaved;
  resize.rows = axis_of(down);
  resize.columns = axis_of(across);
  resize.clip = range.clip;
  resize.shift = range.shift;
  resize.scale = range.scale;
  at::Tensor out = at::empty({in.size(0), 3, down.outputs(), across.outputs()},
                             in.options().dtype(at::kFloat));
  const auto* from = in.const_data_ptr<std::uint8_t>();
  auto* to = out.mutable_data_ptr<float>();
  if (device.is_cuda()) {
    const c10::DeviceGuard guard(device);
    kernels::resize_normalize_cuda(from, resize, to, detail::current_stream(device));
    return out;
  }
  // Half a picture of 299 rows: few rows are filtered twice.
  constexpr int64_t kRows = 150;
  at::parallel_for(0, in.size(0) * down.outputs(), kRows, [&](int64_t begin, int64_t end) {
    kernels::resize_normalize_cpu(from, resize, begin, end, to);
  });
  return out;
}

}  // namespace flowmap::ops
