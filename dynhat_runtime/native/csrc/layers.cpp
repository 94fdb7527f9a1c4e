// Vector loops with a plain loop for what is left over; head dimensions that are no multiple of a vector are legal.
#include "layers.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

#include "simd.h"

namespace dynhat {
namespace {

constexpr float kLayerNormEps = 1e-5f;

// out[d] = sum over t of probability[t] * values[t][offset + d], for head_dim values of d.
void weighted_sum(const float* probabilities, const float* const* values, int offset, int count, int head_dim,
                  float* out) {
  constexpr int kTogether = 4;
  int d = 0;
  for (; d + kTogether * kLanes <= head_dim; d += kTogether * kLanes) {
    Floats sums[kTogether] = {};
    for (int t = 0; t < count; ++t) {
      const Floats p = all(probabilities[t]);
      for (int v = 0; v < kTogether; ++v) sums[v] += p * load(values[t] + offset + d + v * kLanes);
    }
    for (int v = 0; v < kTogether; ++v) store(out + d + v * kLanes, sums[v]);
  }
  for (; d + kLanes <= head_dim; d += kLanes) {
    Floats sum = {};
    for (int t = 0; t < count; ++t) sum += all(probabilities[t]) * load(values[t] + offset + d);
    store(out + d, sum);
  }
  for (; d < head_dim; ++d) {
    float sum = 0.0f;
    for (int t = 0; t < count; ++t) sum += probabilities[t] * values[t][offset + d];
    out[d] = sum;
  }
}

float dot(const float* a, const float* b, int n) {
  Floats sums = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) sums += load(a + i) * load(b + i);
  float total = sum(sums);
  for (; i < n; ++i) total += a[i] * b[i];
  return total;
}

// scores[t] = query . keys[t] over one head, kLanes positions at a time.
void scores_scattered(const float* query, const float* const* keys, int offset, int count, int head_dim,
                      float scale, float* scores) {
  if (head_dim % kLanes != 0) {
    for (int t = 0; t < count; ++t) scores[t] = dot(query, keys[t] + offset, head_dim) * scale;
    return;
  }
  for (int t = 0; t < count; t += kLanes) {
    Floats partial[kLanes] = {};
    for (int d = 0; d < head_dim; d += kLanes) {
      const Floats q = load(query + d);
      for (int k = 0; k < kLanes; ++k) partial[k] += q * load(keys[t + k] + offset + d);
    }
    store(scores + t, sums(partial) * scale);
  }
}

void scores_transposed(const float* query, const TransposedKeys& keys, int offset, int count, int head_dim,
                       float scale, float* scores) {
  constexpr int kTogether = 4;
  const float* rows = keys.keys + static_cast<size_t>(offset) * keys.stride;
  int t = 0;
  for (; t + (kTogether - 1) * kLanes < count && t + kTogether * kLanes <= keys.stride; t += kTogether * kLanes) {
    Floats sums[kTogether] = {};
    for (int d = 0; d < head_dim; ++d) {
      const Floats q = all(query[d]);
      for (int v = 0; v < kTogether; ++v)
        sums[v] += q * load(rows + static_cast<size_t>(d) * keys.stride + t + v * kLanes);
    }
    for (int v = 0; v < kTogether; ++v) store(scores + t + v * kLanes, sums[v] * scale);
  }
  for (; t < count; t += kLanes) {
    Floats sum = {};
    for (int d = 0; d < head_dim; ++d) sum += all(query[d]) * load(rows + static_cast<size_t>(d) * keys.stride + t);
    store(scores + t, sum * scale);
  }
}

}  // namespace

void embed(const DynhatEmbedding& e, int token, int position, float* x) {
  const float* row = e.table + static_cast<size_t>(token) * e.table_stride;
  const float* place = e.positions + static_cast<size_t>(e.pad_id + 1 + position) * e.position_stride;
  const float scale = std::sqrt(static_cast<float>(e.dim));
  for (int i = 0; i < e.dim; ++i) x[i] = place[i] + row[i] * scale;
}

void normalise(const DynhatNorm& norm, const float* x, float* out) {
  const int dim = static_cast<int>(norm.dim), whole = dim / kLanes * kLanes;
  Floats sums = {};
  for (int i = 0; i < whole; i += kLanes) sums += load(x + i);
  float total = sum(sums);
  for (int i = whole; i < dim; ++i) total += x[i];
  const float mean = total / dim;
  Floats squares = {};
  for (int i = 0; i < whole; i += kLanes) {
    const Floats centred = load(x + i) - mean;
    squares += centred * centred;
  }
  float variance = sum(squares);
  for (int i = whole; i < dim; ++i) variance += (x[i] - mean) * (x[i] - mean);
  const float scale = 1.0f / std::sqrt(variance / dim + kLayerNormEps);
  for (int i = 0; i < whole; i += kLanes)
    store(out + i, (load(x + i) - mean) * scale * load(norm.weight + i) + load(norm.bias + i));
  for (int i = whole; i < dim; ++i) out[i] = (x[i] - mean) * scale * norm.weight[i] + norm.bias[i];
}

void softmax(float* scores, int count) {
  const int padded = (count + kLanes - 1) / kLanes * kLanes;
  for (int t = count; t < padded; ++t) scores[t] = -std::numeric_limits<float>::infinity();
  Floats most = load(scores);
  for (int t = kLanes; t < padded; t += kLanes) most = larger(most, load(scores + t));
  const float peak = largest(most);
  Floats sums = {};
  for (int t = 0; t < padded; t += kLanes) {
    const Floats e = exp(load(scores + t) - peak);
    store(scores + t, e);
    sums += e;
  }
  const float share = 1.0f / sum(sums);
  for (int t = 0; t < padded; t += kLanes) store(scores + t, load(scores + t) * share);
}

void attend_transposed(const float* query, const TransposedKeys& keys, const float* const* values, int count,
                       int num_heads, int head_dim, float* scores, float* out) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  for (int h = 0; h < num_heads; ++h) {
    const int offset = h * head_dim;
    scores_transposed(query + offset, keys, offset, count, head_dim, scale, scores);
    softmax(scores, count);
    weighted_sum(scores, values, offset, count, head_dim, out + offset);
  }
}

void attend_scattered(const float* query, const float* const* keys, const float* const* values, int count,
                      int num_heads, int head_dim, float* scores, float* out) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  for (int h = 0; h < num_heads; ++h) {
    const int offset = h * head_dim;
    scores_scattered(query + offset, keys, offset, count, head_dim, scale, scores);
    softmax(scores, count);
    weighted_sum(scores, values, offset, count, head_dim, out + offset);
  }
}

}  // namespace dynhat
