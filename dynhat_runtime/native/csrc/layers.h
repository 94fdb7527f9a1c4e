// What a layer is made of beside its matrices: embedding, norm, softmax, attention of one row. Rows are plain arrays.
// Knows neither where keys and values are kept nor who asks.
#pragma once

#include "network.h"

namespace dynhat {

// x = token's row * sqrt(dim) + the position's row; the first token of a sentence is at position 0.
void embed(const DynhatEmbedding& embedding, int token, int position, float* x);

// x becomes its layer norm, in place or into `out`.
void normalise(const DynhatNorm& norm, const float* x, float* out);

// The first `count` scores become probabilities; scores up to the next multiple of kLanes become 0.
void softmax(float* scores, int count);

// The keys of one sentence, input-major, so that the scores of neighbouring positions are computed together.
struct TransposedKeys {
  const float* keys;  // [width][stride]
  int stride;         // positions, a multiple of kLanes
};

// Attention of one row over `count` positions.
// Shapes: query and out hold width = num_heads * head_dim floats, scores at least `count` rounded up to kLanes.
void attend_transposed(const float* query, const TransposedKeys& keys, const float* const* values, int count,
                       int num_heads, int head_dim, float* scores, float* out);

// The same over keys that lie anywhere; keys[t] and values[t] must be valid up to `count` rounded up to kLanes.
void attend_scattered(const float* query, const float* const* keys, const float* const* values, int count,
                      int num_heads, int head_dim, float* scores, float* out);

}  // namespace dynhat
