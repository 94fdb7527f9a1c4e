// Vectors of floats in the width of the machine this file is compiled for, and the few functions on them that
// decoding needs. Knows nothing of networks. Compiled once per instruction set; see build.py.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace dynhat {

#if defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

inline Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

inline Floats all(float x) { return x - Floats{}; }

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline float sum(Floats v) {
  float lanes[kLanes], total = 0.0f;
  store(lanes, v);
  for (int i = 0; i < kLanes; ++i) total += lanes[i];
  return total;
}

inline float largest(Floats v) {
  float lanes[kLanes];
  store(lanes, v);
  float best = lanes[0];
  for (int i = 1; i < kLanes; ++i) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

// The sum of each of kLanes vectors, in their order.
inline Floats sums(const Floats* v) {
#if defined(__AVX2__)
  __m256 a = _mm256_hadd_ps(__m256(v[0]), __m256(v[1])), b = _mm256_hadd_ps(__m256(v[2]), __m256(v[3]));
  __m256 c = _mm256_hadd_ps(__m256(v[4]), __m256(v[5])), d = _mm256_hadd_ps(__m256(v[6]), __m256(v[7]));
  a = _mm256_hadd_ps(a, b);  // low half: partial sums of 0..3, high half: the rest of them
  c = _mm256_hadd_ps(c, d);
  return Floats(_mm256_add_ps(_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31)));
#elif defined(__aarch64__)
  return Floats(vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
#else
  Floats result;
  for (int i = 0; i < kLanes; ++i) result[i] = sum(v[i]);
  return result;
#endif
}

// exp(x) within 2 units in the last place for x <= 88; 0 below -87. Cephes' reduction and polynomial.
inline Floats exp(Floats x) {
  const Floats too_small = all(-87.0f);
  const Floats clamped = x < too_small ? too_small : x;  // what is no number stays none
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = clamped * 1.44269504088896341f + magic;
  const Floats n = shifted - magic;
  Floats r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Ints exponent = (Ints(shifted) - Ints(magic) + 127) << 23;
  const Floats result = p * Floats(exponent);
  return x < too_small ? Floats{} : result;
}

}  // namespace dynhat
