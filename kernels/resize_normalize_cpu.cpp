// Both passes for a band of output rows: the input rows that it needs are filtered along
// the columns into a buffer, eight rows in the lanes of a vector (any count of taps then
// vectorises, in both layouts), and that buffer along the rows, eight columns in the
// lanes.
#include <algorithm>
#include <vector>

#include "kernels/api.h"
#include "kernels/arguments.h"
#include "kernels/vectors.h"

namespace flowmap::kernels {
namespace {

using vectors::Doubles;
using vectors::Floats;
using vectors::kLanes;
using vectors::load;
using vectors::store;

// Where a band of one picture reads, works and writes.
struct Band {
  const std::uint8_t* input;  // of the picture
  float* output;
  std::int64_t first_row, last_row;  // output rows
  std::int64_t first_input, last_input;  // input rows that they need
  std::int64_t stride;    // of a buffer row: columns.outputs in whole vectors
  double* transposed;     // [inputs of a row, channels][kLanes]
  float* filtered;        // [input row, channels, stride]
};

// Input rows [y, y + count) of the picture, a row to a lane; count <= kLanes.
FM_INLINE void transpose_rows(const ResizeNormalize& r, const Band& band, std::int64_t y,
                              std::int64_t count) {
  const std::int64_t width = r.columns.inputs;
  const std::int64_t run = r.channels_last ? width * r.channels : width;
  const std::int64_t runs = r.channels_last ? 1 : r.channels;
  for (std::int64_t c = 0; c < runs; ++c) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const std::int64_t row = std::min(lane, count - 1);
      const std::uint8_t* from = band.input + (c * r.rows.inputs + y + row) * run;
      double* to = band.transposed + c * run * kLanes + lane;
      for (std::int64_t i = 0; i < run; ++i) {
        to[i * kLanes] = from[i];
      }
    }
  }
}

FM_INLINE void filter_columns(const ResizeNormalize& r, const Band& band) {
  const FilterAxis& axis = r.columns;
  const std::int64_t step = r.channels_last ? r.channels : 1;
  const std::int64_t channel_step = r.channels_last ? 1 : axis.inputs;
  for (std::int64_t y = band.first_input; y < band.last_input; y += kLanes) {
    const std::int64_t count = std::min<std::int64_t>(kLanes, band.last_input - y);
    transpose_rows(r, band, y, count);
    for (std::int64_t c = 0; c < r.channels; ++c) {
      float* out =
          band.filtered + ((y - band.first_input) * r.channels + c) * band.stride;
      for (std::int64_t x = 0; x < axis.outputs; ++x) {
        const double* in =
            band.transposed + (axis.first[x] * step + c * channel_step) * kLanes;
        Doubles sum = {};
        for (std::int64_t k = 0; k < axis.count[x]; ++k) {
          sum += load<Doubles>(in + k * step * kLanes) *
                 axis.weights[k * axis.outputs + x];
        }
        for (std::int64_t lane = 0; lane < count; ++lane) {
          out[lane * r.channels * band.stride + x] = static_cast<float>(sum[lane]);
        }
      }
    }
  }
}

FM_INLINE void filter_rows(const ResizeNormalize& r, const Band& band) {
  const FilterAxis& axis = r.rows;
  const std::int64_t width = r.columns.outputs;
  const std::int64_t plane = axis.outputs * width;
  const std::int64_t row_step = r.channels * band.stride;
  for (std::int64_t y = band.first_row; y < band.last_row; ++y) {
    for (std::int64_t c = 0; c < r.channels; ++c) {
      const float* in = band.filtered + (axis.first[y] - band.first_input) * row_step +
                        c * band.stride;
      float* out = band.output + c * plane + y * width;
      for (std::int64_t x = 0; x < width; x += kLanes) {
        Doubles sum = {};
        for (std::int64_t k = 0; k < axis.count[y]; ++k) {
          sum += __builtin_convertvector(load<Floats>(in + k * row_step + x), Doubles) *
                 axis.weights[k * axis.outputs + y];
        }
        if (r.clip) {
          sum = sum < 0.0 ? Doubles{} : sum;
          sum = sum > 255.0 ? Doubles{} + 255.0 : sum;
        }
        const Floats values = __builtin_convertvector((sum - r.shift) * r.scale, Floats);
        if (x + kLanes <= width) {
          store(out + x, values);
        } else {
          std::memcpy(out + x, &values,
                      static_cast<std::size_t>(width - x) * sizeof(float));
        }
      }
      if (r.channels == 1) {
        std::copy(out, out + width, out + plane);
        std::copy(out, out + width, out + 2 * plane);
      }
    }
  }
}

FM_CLONES void resize_band(const ResizeNormalize& resize, const Band& band) {
  filter_columns(resize, band);
  filter_rows(resize, band);
}

}  // namespace

void resize_normalize_cpu(const std::uint8_t* input, const ResizeNormalize& resize,
                          std::int64_t first_row, std::int64_t last_row, float* output) {
  const char* entry = "resize_normalize_cpu";
  const FilterAxis& rows = resize.rows;
  const FilterAxis& columns = resize.columns;
  const std::int64_t count = checked_count(entry, resize);
  if (first_row < 0 || first_row > last_row || last_row > resize.batch * rows.outputs) {
    throw std::invalid_argument(std::string(entry) + ": rows " +
                                std::to_string(first_row) + " to " +
                                std::to_string(last_row) + " of " +
                                std::to_string(resize.batch * rows.outputs));
  }
  if (count == 0 || first_row == last_row) {
    return;
  }
  check_windows(entry, rows);
  check_windows(entry, columns);
  std::vector<double> transposed(
      static_cast<std::size_t>(columns.inputs * resize.channels * kLanes));
  std::vector<float> filtered;
  for (std::int64_t row = first_row; row < last_row;) {
    const std::int64_t image = row / rows.outputs;
    Band band{};
    band.input = input + image * resize.channels * rows.inputs * columns.inputs;
    band.output = output + image * 3 * rows.outputs * columns.outputs;
    band.first_row = row - image * rows.outputs;
    band.last_row = std::min(rows.outputs, last_row - image * rows.outputs);
    band.first_input = rows.inputs;
    for (std::int64_t y = band.first_row; y < band.last_row; ++y) {
      band.first_input = std::min<std::int64_t>(band.first_input, rows.first[y]);
      band.last_input =
          std::max<std::int64_t>(band.last_input, rows.first[y] + rows.count[y]);
    }
    band.stride = (columns.outputs + kLanes - 1) / kLanes * kLanes;
    filtered.resize(static_cast<std::size_t>((band.last_input - band.first_input) *
                                             resize.channels * band.stride));
    band.transposed = transposed.data();
    band.filtered = filtered.data();
    resize_band(resize, band);
    row += band.last_row - band.first_row;
  }
}

}  // namespace flowmap::kernels
