// The kernels: a block of rows shares each load of a weight.
#include "product.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "simd.h"

namespace dynhat {
namespace {

constexpr int kVectors = kPanel / kLanes;  // per panel
// How far ahead weights are asked for, in weights. Large matrices come from memory a fifth to a half faster for it.
constexpr int kFloatsAhead = 256, kInt8Ahead = 2048;
#if defined(__AVX2__)
constexpr int kMaxFloatRows = 6;  // 12 accumulators, two weights and a broadcast input: 15 of 16 registers
constexpr int kMaxInt8Rows = 6;   // 12 sums, two weights, an input, a product on its way to the sum: all 16
#elif defined(__aarch64__)
constexpr int kMaxFloatRows = 6;  // 24 accumulators of 32 registers
constexpr int kMaxInt8Rows = 4;
#else
constexpr int kMaxFloatRows = 2;
constexpr int kMaxInt8Rows = 2;
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
      __builtin_prefetch(panel + (i + u) * kPanel + kFloatsAhead);
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

// One row's sums of 16 outputs. `add` brings a pair of inputs: w holds int8 pairs, x is that pair as int16.
struct IntSums {
#if defined(__AVX2__)
  __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();
  struct Weights {
    __m256i low, high;
    explicit Weights(const int8_t* p)
        : low(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))),
          high(_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16)))) {}
  };
  // GCC lets sums wander from register to register, a copy for every addition: a third of the loop.
  static void add_to(__m256i& sum, __m256i product) { asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product)); }
  void add(const Weights& weights, const int16_t* x) {
    int32_t pair;
    std::memcpy(&pair, x, sizeof pair);
    const __m256i both = _mm256_set1_epi32(pair);
    add_to(low, _mm256_madd_epi16(weights.low, both));
    add_to(high, _mm256_madd_epi16(weights.high, both));
  }
  void to_floats(Floats (&out)[kVectors]) const {
    out[0] = Floats(_mm256_cvtepi32_ps(low));
    out[1] = Floats(_mm256_cvtepi32_ps(high));
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

// The sums of several rows, one by one and not in an array, so that every one gets a register of its own.
template <int kRows>
struct RowSums {
  IntSums first;
  RowSums<kRows - 1> others;
  void add(const IntSums::Weights& weights, const int16_t* x, ptrdiff_t stride) {
    first.add(weights, x);
    others.add(weights, x + stride, stride);
  }
  void to_floats(Floats (*out)[kVectors]) const {
    first.to_floats(out[0]);
    others.to_floats(out + 1);
  }
};

template <>
struct RowSums<0> {
  void add(const IntSums::Weights&, const int16_t*, ptrdiff_t) {}
  void to_floats(Floats (*)[kVectors]) const {}
};

template <int kRows>
void int8_panel(const DynhatMatrix& m, const int8_t* panel, const float* bias, const float* scales, int count,
                const Block& block, const int16_t* quantised, const float* row_scales, Then then) {
  const ptrdiff_t num_in = even(m.num_in);
  RowSums<kRows> sums;
  const int16_t* x = quantised;
  const int16_t* const end = x + num_in;
  for (; x + 4 <= end; x += 4, panel += 4 * kPanel) {
    __builtin_prefetch(panel + kInt8Ahead);  // a cache line is two pairs
    sums.add(IntSums::Weights(panel), x, num_in);
    sums.add(IntSums::Weights(panel + 2 * kPanel), x + 2, num_in);
  }
  if (x < end) sums.add(IntSums::Weights(panel), x, num_in);
  Floats values[kRows][kVectors];
  sums.to_floats(values);
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) values[r][v] *= load(scales + v * kLanes) * all(row_scales[r]);
  finish<kRows>(values, bias, count, block, then);
}

// One panel for a block of kRows rows, or for fewer.
template <int kRows>
void float_block(const Product& p, int index, int rows, const Block& block, Then then) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return float_block<kRows - 1>(p, index, rows, block, then);
  }
  const DynhatMatrix& m = p.matrix;
  const int output = index * kPanel, count = std::min(kPanel, m.num_out - output);
  const auto* panel = static_cast<const float*>(m.panels) + static_cast<size_t>(output) * m.panel_inputs;
  float_panel<kRows>(m, panel, m.bias == nullptr ? nullptr : m.bias + output, count, block, then);
}

template <int kRows>
void int8_block(const Product& p, int index, int row, int rows, const Block& block, Then then) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return int8_block<kRows - 1>(p, index, row, rows, block, then);
  }
  const DynhatMatrix& m = p.matrix;
  const int output = index * kPanel, count = std::min(kPanel, m.num_out - output);
  const auto* panel = static_cast<const int8_t*>(m.panels) + static_cast<size_t>(output) * even(m.panel_inputs);
  int8_panel<kRows>(m, panel, m.bias == nullptr ? nullptr : m.bias + output, m.scales + output, count, block,
                    p.scratch.quantised + static_cast<ptrdiff_t>(row) * even(m.num_in), p.scratch.row_scales + row,
                    then);
}

}  // namespace

// Rows become int16 with a scale each. Their largest value is chosen so that no sum of products can leave int32:
// |sum| <= inputs * 127 * largest <= 2^31 - 1. Up to 516 inputs that is all of int16.
void quantise(const Product& product) {
  const int num_in = product.matrix.num_in, padded = even(num_in);
  const float most = static_cast<float>(std::min<int64_t>(32767, INT32_MAX / (int64_t{127} * padded)));
  for (int r = 0; r < product.rows; ++r) {
    const float* row = product.x + static_cast<ptrdiff_t>(r) * product.x_stride;
    int16_t* out = product.scratch.quantised + static_cast<ptrdiff_t>(r) * padded;
    Floats largest_abs = {};
    int i = 0;
    for (; i + kLanes <= num_in; i += kLanes) {
      const Floats v = load(row + i);
      largest_abs = larger(largest_abs, v < 0.0f ? -v : v);
    }
    float most_seen = largest(largest_abs);
    for (; i < num_in; ++i) most_seen = std::max(most_seen, std::fabs(row[i]));
    const float inverse = most_seen > 0.0f ? most / most_seen : 0.0f;
    product.scratch.row_scales[r] = most_seen / most;
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

void multiply_panels(const Product& product, int first, int last, float* y, int y_stride, Then then) {
  const bool is_int8 = product.matrix.is_int8;
  const int rows = product.rows, most = is_int8 ? kMaxInt8Rows : kMaxFloatRows;
  const int num_blocks = (rows + most - 1) / most;
  // Panels outside, rows inside: a panel comes from memory once, then from the cache.
  for (int p = first; p < last; ++p) {
    for (int b = 0; b < num_blocks; ++b) {
      const int row = rows * b / num_blocks, count = rows * (b + 1) / num_blocks - row;
      const Block block{product.x + static_cast<ptrdiff_t>(row) * product.x_stride, product.x_stride,
                        y + static_cast<ptrdiff_t>(row) * y_stride + (p - first) * kPanel, y_stride};
      if (is_int8) {
        int8_block<kMaxInt8Rows>(product, p, row, count, block, then);
      } else {
        float_block<kMaxFloatRows>(product, p, count, block, then);
      }
    }
  }
}

}  // namespace dynhat
