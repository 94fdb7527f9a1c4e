// The network as plain values: one SubTransformer's matrices, norms and sizes, pointing into memory that others own.
// Mirrored field by field in structures.py. Computes nothing.
#pragma once

#include <cstdint>

extern "C" {

// y = W x + b on the leading part of a packed matrix.
typedef struct {
  const void* panels;        // packed weights; see matrix.h
  const float* scales;       // int8: one per output; float32: null
  const float* bias;         // or null
  int32_t num_out, num_in;   // the slice in use
  int32_t panel_inputs;      // inputs of the whole matrix
  int32_t is_int8;
} DynhatMatrix;

typedef struct {
  const float* weight;
  const float* bias;
  int64_t dim;  // 0: there is no such norm
} DynhatNorm;

typedef struct {
  DynhatMatrix qkv, out;  // rows of qkv: queries, keys, values
  DynhatNorm norm;
  int64_t num_heads;
} DynhatSelfAttention;

typedef struct {
  DynhatMatrix query, key_value, out;
  DynhatNorm norm;
  int32_t num_heads, span;
} DynhatCrossAttention;

typedef struct {
  DynhatMatrix expand, contract;
  DynhatNorm norm;
} DynhatFeedForward;

typedef struct {
  DynhatSelfAttention attention;
  DynhatFeedForward feed_forward;
} DynhatEncoderLayer;

typedef struct {
  DynhatSelfAttention attention;
  DynhatCrossAttention cross;
  DynhatFeedForward feed_forward;
} DynhatDecoderLayer;

typedef struct {
  const float* table;      // a row per token
  const float* positions;  // a row per position, the first token's is pad_id + 1
  int32_t table_stride, position_stride;
  int32_t dim, pad_id;
  int32_t vocab_size, num_positions;
} DynhatEmbedding;

typedef struct {
  DynhatEmbedding src, tgt;
  const DynhatEncoderLayer* encoder_layers;
  const DynhatDecoderLayer* decoder_layers;
  DynhatNorm encoder_norm, decoder_norm;
  DynhatMatrix output;
  int32_t num_encoder_layers, num_decoder_layers;
  int32_t num_super_encoder_layers;  // spans are counted over these
  int32_t norm_first;
  int32_t qkv_dim, num_threads;
} DynhatNetwork;

}  // extern "C"
