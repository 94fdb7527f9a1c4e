// The decoder: several rows (beams) per sentence, one position at a time. Knows nothing of scores and searching.
#pragma once

#include <cstdint>
#include <vector>

#include "encoder.h"
#include "layers.h"
#include "output.h"
#include "product.h"
#include "network.h"
#include "team.h"

namespace dynhat {

// Tokens that sentences may be translated with, one sentence's after the other, ascending; none: the whole vocabulary.
struct Listed {
  const int32_t* tokens;
  const int32_t* counts;  // per sentence, at least 1
};

class Decoder {
 public:
  // `capacity`: positions there is room for at first; it doubles when they are used up.
  Decoder(const DynhatNetwork& network, const Encoding& encoding, Listed listed, int num_beams, int capacity);

  // One more position: computes `scores` of every row.
  void step(const int32_t* tokens);

  // Scores before softmax of what follows a row's last token, at the places of its `output`: the caller's to write to,
  // until the next step.
  float* scores(int row) { return &logits_[size_t(row) * logits_stride_]; }
  const Output& output(int row) const { return outputs_[outputs_.size() == 1 ? 0 : sentence_of_row_[row]]; }

  // Continues with these rows, in this order. Nothing moves but the rows' lists of ancestors.
  void keep(const int32_t* rows, int num_rows);

  void reserve(int num_positions);

  int num_rows() const { return num_rows_; }
  int position() const { return position_; }
  int vocab_size() const { return net_.output.num_out; }
  int num_positions() const { return net_.tgt.num_positions - net_.tgt.pad_id - 1; }
  size_t size_bytes() const;

  // The row that wrote position `t` of what is now row `row`.
  int ancestor(int row, int t) const { return ancestors_[size_t(row) * capacity_ + t]; }

 private:
  struct Cross {  // keys and values of every sentence for one layer
    std::vector<float> keys, values;
  };

  void list_outputs(Listed listed, int num_sentences);
  void project_memory(const Encoding& encoding);
  void project_outputs(const float* last);
  void layer(int index);
  void attend_self(const DynhatSelfAttention& attention, int index);
  void attend_cross(const DynhatCrossAttention& attention, int index);
  void times(const DynhatMatrix& matrix, const float* x, int x_stride, float* y, int y_stride, Then then);
  const float* before(const DynhatNorm& norm);
  void after(const DynhatNorm& norm);
  float* cached(int layer, int t, int row);

  const DynhatNetwork net_;
  const int dim_, width_, max_rows_;
  int num_rows_, position_ = 0, capacity_;
  std::vector<int> sentence_of_row_, spare_sentences_;
  std::vector<int> memory_lengths_, memory_strides_;  // per layer and sentence: positions, and rounded up
  std::vector<size_t> key_starts_, value_starts_;     // per layer and sentence: where they begin
  std::vector<Output> outputs_;  // one for all sentences, or one each
  int logits_stride_ = 0;
  std::vector<Cross> cross_;
  std::vector<float> cache_;  // [layer][position][row][keys and values]
  std::vector<int32_t> ancestors_, spare_ancestors_;  // [row][position]
  std::vector<float> x_, normed_, qkv_, query_, context_, hidden_, scores_, logits_, row_scales_;
  std::vector<const float*> keys_, values_;
  std::vector<int16_t> quantised_;
  Scratch scratch_;
  Team team_;  // last: it rests before the memory it reads goes
};

}  // namespace dynhat
