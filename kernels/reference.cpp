// The entries of api.h in plain C++: slow, plain, sums in double.
#include <cmath>

#include "kernels/api.h"
#include "kernels/arguments.h"
#include "kernels/philox.h"

namespace flowmap::kernels {

bool cuda_compiled() {
#ifdef FLOWMAP_WITH_CUDA
  return true;
#else
  return false;
#endif
}

namespace reference {

void philox_normals(const PhiloxRows& rows, float* output) {
  checked_count("philox_normals", rows);
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    float* out = output + row * rows.columns;
    for (std::int64_t column = 0; column < rows.columns; column += 2) {
      const PhiloxWords words =
          philox_block(rows.seeds[row], rows.stream_id, rows.indices[row],
                       static_cast<std::uint64_t>(column / 4));
      const std::int64_t first = column % 4;  // 0 or 2
      float pair[2];
      philox_normal_pair(words.word[first], words.word[first + 1], &pair[0], &pair[1]);
      out[column] = pair[0];
      if (column + 1 < rows.columns) {
        out[column + 1] = pair[1];
      }
    }
  }
}

void philox_uniforms(const PhiloxRows& rows, float* output) {
  checked_count("philox_uniforms", rows);
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    for (std::int64_t column = 0; column < rows.columns; ++column) {
      const PhiloxWords words =
          philox_block(rows.seeds[row], rows.stream_id, rows.indices[row],
                       static_cast<std::uint64_t>(column / 4));
      output[row * rows.columns + column] = philox_uniform(words.word[column % 4]);
    }
  }
}

void image_to_uint8(const float* input, std::int64_t batch, std::int64_t channels,
                    std::int64_t spatial, std::uint8_t* output) {
  checked_count("image_to_uint8", sizeof(float), batch, channels, spatial);
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t s = 0; s < spatial; ++s) {
      for (std::int64_t c = 0; c < channels; ++c) {
        // Two roundings: this file is compiled without contraction.
        const float scaled = input[(b * channels + c) * spatial + s] * 127.5f;
        const float level = scaled + 128.0f;
        std::uint8_t byte = 0;
        if (level >= 255.0f) {
          byte = 255;
        } else if (level > 0.0f) {
          byte = static_cast<std::uint8_t>(level);
        }
        output[(b * spatial + s) * channels + c] = byte;
      }
    }
  }
}

void group_norm_silu(const float* input, const GroupNorm& norm, float* output) {
  if (checked_count("group_norm_silu", norm) == 0) {
    return;
  }
  const std::int64_t group_channels = norm.channels / norm.groups;
  const std::int64_t count = group_channels * norm.spatial;
  const std::int64_t stride =
      norm.modulation_stride == 0 ? norm.channels : norm.modulation_stride;
  for (std::int64_t block = 0; block < norm.batch * norm.groups; ++block) {
    const float* in = input + block * count;
    float* out = output + block * count;
    double mean = 0.0;
    for (std::int64_t i = 0; i < count; ++i) {
      mean += in[i];
    }
    mean /= static_cast<double>(count);
    double variance = 0.0;
    for (std::int64_t i = 0; i < count; ++i) {
      variance += (in[i] - mean) * (in[i] - mean);
    }
    variance /= static_cast<double>(count);
    const double inverse_std = 1.0 / std::sqrt(variance + norm.epsilon);
    const std::int64_t batch = block / norm.groups;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t channel =
          block % norm.groups * group_channels + i / norm.spatial;
      const std::int64_t at = batch * stride + channel;
      double p = (in[i] - mean) * inverse_std;
      p = p * (norm.weight ? norm.weight[channel] : 1.0) +
          (norm.bias ? norm.bias[channel] : 0.0);
      p = p * (1.0 + (norm.scale ? norm.scale[at] : 0.0)) +
          (norm.shift ? norm.shift[at] : 0.0);
      out[i] = static_cast<float>(norm.silu ? p / (1.0 + std::exp(-p)) : p);
    }
  }
}

}  // namespace reference
}  // namespace flowmap::kernels
