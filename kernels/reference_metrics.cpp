// The entries of api.h for scoring, in plain C++.
#include <algorithm>
#include <vector>

#include "kernels/api.h"
#include "kernels/arguments.h"

namespace flowmap::kernels::reference {

void resize_normalize(const std::uint8_t* input, const ResizeNormalize& resize,
                      float* output) {
  const char* entry = "resize_normalize";
  if (checked_count(entry, resize) == 0) {
    return;
  }
  const FilterAxis& rows = resize.rows;
  const FilterAxis& columns = resize.columns;
  check_windows(entry, rows);
  check_windows(entry, columns);
  const std::int64_t column_step = resize.channels_last ? resize.channels : 1;
  const std::int64_t plane = rows.inputs * columns.inputs;
  std::vector<float> filtered(static_cast<std::size_t>(rows.inputs * columns.outputs));
  for (std::int64_t image = 0; image < resize.batch; ++image) {
    for (std::int64_t out_channel = 0; out_channel < 3; ++out_channel) {
      const std::int64_t channel = resize.channels == 1 ? 0 : out_channel;
      const std::uint8_t* in = input + image * resize.channels * plane +
                               (resize.channels_last ? channel : channel * plane);
      for (std::int64_t y = 0; y < rows.inputs; ++y) {
        for (std::int64_t x = 0; x < columns.outputs; ++x) {
          double sum = 0.0;
          for (std::int64_t k = 0; k < columns.count[x]; ++k) {
            sum += columns.weights[k * columns.outputs + x] *
                   in[(y * columns.inputs + columns.first[x] + k) * column_step];
          }
          filtered[static_cast<std::size_t>(y * columns.outputs + x)] =
              static_cast<float>(sum);
        }
      }
      float* out =
          output + (image * 3 + out_channel) * rows.outputs * columns.outputs;
      for (std::int64_t y = 0; y < rows.outputs; ++y) {
        for (std::int64_t x = 0; x < columns.outputs; ++x) {
          double sum = 0.0;
          for (std::int64_t k = 0; k < rows.count[y]; ++k) {
            sum += rows.weights[k * rows.outputs + y] *
                   filtered[static_cast<std::size_t>(
                       (rows.first[y] + k) * columns.outputs + x)];
          }
          if (resize.clip) {
            sum = std::clamp(sum, 0.0, 255.0);
          }
          out[y * columns.outputs + x] =
              static_cast<float>((sum - resize.shift) * resize.scale);
        }
      }
    }
  }
}

void add_scatter(const double* rows, std::int64_t count, std::int64_t dimensions,
                 double* scatter) {
  checked_count("add_scatter", sizeof(double), count, dimensions);
  for (std::int64_t i = 0; i < dimensions; ++i) {
    for (std::int64_t j = 0; j < dimensions; ++j) {
      double sum = 0.0;
      for (std::int64_t r = 0; r < count; ++r) {
        sum += rows[r * dimensions + i] * rows[r * dimensions + j];
      }
      scatter[i * dimensions + j] += sum;
    }
  }
}

namespace {

double squared_distance(const RowPairs& pairs, std::int64_t i, std::int64_t j) {
  double sum = 0.0;
  for (std::int64_t k = 0; k < pairs.dimensions; ++k) {
    const double difference = static_cast<double>(pairs.x[i * pairs.dimensions + k]) -
                              static_cast<double>(pairs.y[j * pairs.dimensions + k]);
    sum += difference * difference;
  }
  return sum;
}

}  // namespace

void squared_distances(const RowPairs& pairs, double* output) {
  checked_count("squared_distances", pairs);
  for (std::int64_t i = 0; i < pairs.x_rows; ++i) {
    for (std::int64_t j = 0; j < pairs.y_rows; ++j) {
      output[i * pairs.y_rows + j] = squared_distance(pairs, i, j);
    }
  }
}

void count_within(const RowPairs& pairs, const double* x_radii, const double* y_radii,
                  bool inclusive, std::int64_t* output) {
  if (checked_count("count_within", pairs) > 0) {
    check_radii("count_within", x_radii, y_radii);
  }
  for (std::int64_t i = 0; i < pairs.x_rows; ++i) {
    output[i] = 0;
    for (std::int64_t j = 0; j < pairs.y_rows; ++j) {
      const double distance = squared_distance(pairs, i, j);
      const double radius = x_radii ? x_radii[i] : y_radii[j];
      output[i] += inclusive ? distance <= radius : distance < radius;
    }
  }
}

void polynomial_sums(const RowPairs& pairs, std::int64_t skip, double* output) {
  checked_count("polynomial_sums", pairs);
  for (std::int64_t i = 0; i < pairs.x_rows; ++i) {
    output[i] = 0.0;
    for (std::int64_t j = 0; j < pairs.y_rows; ++j) {
      if (j - i == skip) {
        continue;
      }
      double dot = 0.0;
      for (std::int64_t k = 0; k < pairs.dimensions; ++k) {
        dot += static_cast<double>(pairs.x[i * pairs.dimensions + k]) *
               static_cast<double>(pairs.y[j * pairs.dimensions + k]);
      }
      const double term = dot / static_cast<double>(pairs.dimensions) + 1.0;
      output[i] += term * term * term;
    }
  }
}

}  // namespace flowmap::kernels::reference
