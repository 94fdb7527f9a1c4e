// Packing of float32 and int8 matrices.
#include "matrix.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "product.h"

namespace dynhat {

void pack_float(const float* weight, int stride, int num_out, int num_in, float* panels) {
  for (int p = 0; p < num_panels(num_out); ++p) {
    float* panel = panels + static_cast<size_t>(p) * num_in * kPanel;
    for (int o = 0; o < kPanel; ++o) {
      const int output = p * kPanel + o;
      const float* row = output < num_out ? weight + static_cast<ptrdiff_t>(output) * stride : nullptr;
      for (int i = 0; i < num_in; ++i) panel[i * kPanel + o] = row == nullptr ? 0.0f : row[i];
    }
  }
}

void pack_int8(const float* weight, int stride, int num_out, int num_in, int8_t* panels, float* scales) {
  const int padded = even(num_in);
  std::fill(panels, panels + static_cast<size_t>(num_panels(num_out)) * kPanel * padded, int8_t{0});
  std::fill(scales, scales + num_panels(num_out) * kPanel, 0.0f);
  for (int output = 0; output < num_out; ++output) {
    const float* row = weight + static_cast<ptrdiff_t>(output) * stride;
    float most = 0.0f;
    for (int i = 0; i < num_in; ++i) most = std::max(most, std::fabs(row[i]));
    scales[output] = most / 127.0f;
    const float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    int8_t* panel = panels + static_cast<size_t>(output / kPanel) * kPanel * padded + output % kPanel * 2;
    for (int i = 0; i < num_in; ++i)
      panel[i / 2 * 2 * kPanel + i % 2] = static_cast<int8_t>(std::lrint(row[i] * inverse));
  }
}

}  // namespace dynhat
