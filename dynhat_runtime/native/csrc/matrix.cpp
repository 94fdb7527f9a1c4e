// Packing, and the kernels: a block of rows shares each load of a weight.
#include "matrix.h"

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace dynhat {
namespace {

constexpr int kVectors = kPanel / kLanes;  // per panel
#if defined(__AVX2__)
constexpr int kMaxRows = 6;  // 12 accumulators, two weights and a broadcast input: 15 of 16 registers
#elif defined(__aarch64__)
constexpr int kMaxRows = 6;  // 24 accumulators of 32 registers
#else
constexpr int kMaxRows = 2;
#endif

struct Block {
  const float* x;
  int x_stride;
  float* y;
  int y_stride;
};

// W x of one panel and one block of rows is there: add the bias, and put the first `count` outputs where they belong.
template <int kRows>
void finish(const Floats (&sums)[kRows][kVectors], const float* bias, int count, const Block& block, Then then) {
  float padded[kPanel] = {};
  if (bias != nullptr && count < kPanel) {
    std::copy(bias, bias + count, padded);
    bias = padded;
  }
  for (int r = 0; r < kRows; ++r) {
    float* y = block.y + static_cast<ptrdiff_t>(r) * block.y_stride;
    float partial[kPanel] = {};
    float* target = y;
    if (count < kPanel) {
      if (then == Then::kAdd) std::copy(y, y + count, partial);
      target = partial;
    }
    for (int v = 0; v < kVectors; ++v) {
      Floats value = sums[r][v];
      if (bias != nullptr) value += load(bias + v * kLanes);
      if (then == Then::kAdd) value += load(target + v * kLanes);
      if (then == Then::kRelu) value = value < Floats{} ? Floats{} : value;  // what is no number stays none
      store(target + v * kLanes, value);
    }
    if (count < kPanel) std::copy(partial, partial + count, y);
  }
}

template <int kRows>
void float_panel(const DynhatMatrix& m, const float* panel, const float* bias, int count, const Block& block,
                 Then then) {
  // Several independent sums per output where the rows alone would leave the multipliers waiting for each other.
  constexpr int kUnroll = kRows == 1 ? 4 : kRows == 2 ? 2 : 1;
  Floats sums[kUnroll][kRows][kVectors] = {};
  int i = 0;
  for (; i + kUnroll <= m.num_in; i += kUnroll) {
    for (int u = 0; u < kUnroll; ++u) {
      Floats w[kVectors];
      for (int v = 0; v < kVectors; ++v) w[v] = load(panel + (i + u) * kPanel + v * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Floats x = all(block.x[static_cast<ptrdiff_t>(r) * block.x_stride + i + u]);
        for (int v = 0; v < kVectors; ++v) sums[u][r][v] += w[v] * x;
      }
    }
  }
  for (; i < m.num_in; ++i) {
    for (int r = 0; r < kRows; ++r) {
      const Floats x = all(block.x[static_cast<ptrdiff_t>(r) * block.x_stride + i]);
      for (int v = 0; v < kVectors; ++v) sums[0][r][v] += load(panel + i * kPanel + v * kLanes) * x;
    }
  }
  for (int u = 1; u < kUnroll; ++u)
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVectors; ++v) sums[0][r][v] += sums[u][r][v];
  finish<kRows>(sums[0], bias, count, block, then);
}

// Adds to the sums of 16 outputs what a pair of inputs brings: w holds int8 pairs, x is that pair as int16.
struct IntSums {
#if defined(__AVX2__)
  __m256i v[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  struct Weights {
    __m256i w[2];
    explicit Weights(const int8_t* p)
        : w{_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)))} {}
  };
  void add(const Weights& weights, const int16_t* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof pair);
    const __m256i both = _mm256_set1_epi32(pair);
    for (int i = 0; i < 2; ++i) v[i] = _mm256_add_epi32(v[i], _mm256_madd_epi16(weights.w[i], both));
  }
  void to_floats(Floats (&out)[kVectors]) const {
    for (int i = 0; i < 2; ++i) out[i] = Floats(_mm256_cvtepi32_ps(v[i]));
  }
#elif defined(__ARM_NEON)
  int32x4_t v[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
  struct Weights {
    int16x8_t w[2][2];  // [outputs 0..7 or 8..15][first or second input]
    explicit Weights(const int8_t* p) {
      for (int half = 0; half < 2; ++half) {
        const int8x8x2_t pairs = vld2_s8(p + 16 * half);
        for (int i = 0; i < 2; ++i) w[half][i] = vmovl_s8(pairs.val[i]);
      }
    }
  };
  void add(const Weights& weights, const int16_t* x) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 2; ++i) {
        v[2 * half] = vmlal_n_s16(v[2 * half], vget_low_s16(weights.w[half][i]), x[i]);
        v[2 * half + 1] = vmlal_n_s16(v[2 * half + 1], vget_high_s16(weights.w[half][i]), x[i]);
      }
    }
  }
  void to_floats(Floats (&out)[kVectors]) const {
    for (int i = 0; i < 4; ++i) out[i] = Floats(vcvtq_f32_s32(v[i]));
  }
#else
  int32_t v[kPanel] = {};
  struct Weights {
    const int8_t* p;
    explicit Weights(const int8_t* p) : p(p) {}
  };
  void add(const Weights& weights, const int16_t* x) {
    for (int o = 0; o < kPanel; ++o) v[o] += weights.p[2 * o] * x[0] + weights.p[2 * o + 1] * x[1];
  }
  void to_floats(Floats (&out)[kVectors]) const {
    for (int o = 0; o < kPanel; ++o) out[o / kLanes][o % kLanes] = static_cast<float>(v[o]);
  }
#endif
};

template <int kRows>
void int8_panel(const DynhatMatrix& m, const int8_t* panel, const float* bias, const float* scales, int count,
                const Block& block, const int16_t* quantised, const float* row_scales, Then then) {
  constexpr int kUnroll = kRows == 1 ? 4 : kRows == 2 ? 2 : 1;
  const int num_in = even(m.num_in);
  IntSums sums[kUnroll][kRows];
  int i = 0;
  for (; i + 2 * kUnroll <= num_in; i += 2 * kUnroll) {
    for (int u = 0; u < kUnroll; ++u) {
      const IntSums::Weights weights(panel + (i + 2 * u) * kPanel);
      for (int r = 0; r < kRows; ++r) sums[u][r].add(weights, quantised + static_cast<ptrdiff_t>(r) * num_in + i + 2 * u);
    }
  }
  for (; i < num_in; i += 2) {
    const IntSums::Weights weights(panel + i * kPanel);
    for (int r = 0; r < kRows; ++r) sums[0][r].add(weights, quantised + static_cast<ptrdiff_t>(r) * num_in + i);
  }
  for (int u = 1; u < kUnroll; ++u)
    for (int r = 0; r < kRows; ++r)
      for (size_t k = 0; k < sizeof(sums[0][r].v) / sizeof(sums[0][r].v[0]); ++k) {
#if defined(__AVX2__)
        sums[0][r].v[k] = _mm256_add_epi32(sums[0][r].v[k], sums[u][r].v[k]);
#else
        sums[0][r].v[k] += sums[u][r].v[k];
#endif
      }
  Floats values[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    sums[0][r].to_floats(values[r]);
    for (int v = 0; v < kVectors; ++v) values[r][v] *= load(scales + v * kLanes) * all(row_scales[r]);
  }
  finish<kRows>(values, bias, count, block, then);
}

// Rows become int16 with a scale each. Their largest value is chosen so that no sum of products can leave int32:
// |sum| <= inputs * 127 * largest <= 2^31 - 1. Up to 516 inputs that is all of int16.
void quantise(const float* x, int x_stride, int rows, int num_in, const Scratch& scratch) {
  const int padded = even(num_in);
  const float most = static_cast<float>(std::min<int64_t>(32767, INT32_MAX / (int64_t{127} * padded)));
  for (int r = 0; r < rows; ++r) {
    const float* row = x + static_cast<ptrdiff_t>(r) * x_stride;
    int16_t* out = scratch.quantised + static_cast<ptrdiff_t>(r) * padded;
    Floats largest_abs = {};
    int i = 0;
    for (; i + kLanes <= num_in; i += kLanes) {
      const Floats v = load(row + i);
      largest_abs = larger(largest_abs, v < 0.0f ? -v : v);
    }
    float most_seen = largest(largest_abs);
    for (; i < num_in; ++i) most_seen = std::max(most_seen, std::fabs(row[i]));
    const float inverse = most_seen > 0.0f ? most / most_seen : 0.0f;
    scratch.row_scales[r] = most_seen / most;
    const float magic = 12582912.0f;  // rounds to an integer, which then lies in the low bits
    for (i = 0; i < num_in; ++i) {
      const float shifted = row[i] * inverse + magic;
      int32_t bits;
      std::memcpy(&bits, &shifted, sizeof bits);
      out[i] = static_cast<int16_t>(bits);
    }
    if (padded > num_in) out[num_in] = 0;
  }
}

// All panels from `first` to `last` for a block of kRows rows, or for fewer.
template <int kRows>
void panels_times_rows(const DynhatMatrix& m, int first, int last, const float* x, int x_stride, int row, int rows,
                       float* y, int y_stride, Then then, const Scratch& scratch) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return panels_times_rows<kRows - 1>(m, first, last, x, x_stride, row, rows, y, y_stride, then, scratch);
  }
  for (int p = first; p < last; ++p) {
    const int output = p * kPanel;
    const int count = std::min(kPanel, m.num_out - output);
    const Block block{x + static_cast<ptrdiff_t>(row) * x_stride, x_stride,
                      y + static_cast<ptrdiff_t>(row) * y_stride + output, y_stride};
    const float* bias = m.bias == nullptr ? nullptr : m.bias + output;
    if (m.is_int8) {
      const auto* panel = static_cast<const int8_t*>(m.panels) + static_cast<size_t>(output) * even(m.panel_inputs);
      int8_panel<kRows>(m, panel, bias, m.scales + output, count, block,
                        scratch.quantised + static_cast<ptrdiff_t>(row) * even(m.num_in), scratch.row_scales + row,
                        then);
    } else {
      const auto* panel = static_cast<const float*>(m.panels) + static_cast<size_t>(output) * m.panel_inputs;
      float_panel<kRows>(m, panel, bias, count, block, then);
    }
  }
}

}  // namespace

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

void multiply(const DynhatMatrix& m, const float* x, int x_stride, int rows, float* y, int y_stride, Then then,
              const Scratch& scratch, Team& team) {
  if (m.is_int8) quantise(x, x_stride, rows, m.num_in, scratch);
  const int num_blocks = (rows + kMaxRows - 1) / kMaxRows;
  team.share(num_panels(m.num_out), [&](int first, int last) {
    // Panels outside, rows inside: a panel comes from memory once, then from the cache.
    const int step = rows <= kMaxRows ? last - first : 1;
    for (int p = first; p < last; p += step) {
      for (int b = 0; b < num_blocks; ++b) {
        const int row = rows * b / num_blocks, count = rows * (b + 1) / num_blocks - row;
        panels_times_rows<kMaxRows>(m, p, p + step, x, x_stride, row, count, y, y_stride, then, scratch);
      }
    }
  });
}

}  // namespace dynhat
