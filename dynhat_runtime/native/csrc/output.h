// The output projection of one sentence: on the whole vocabulary, or on the tokens that are listed for it. Multiplies
// nothing.
//
// Listed rows are gathered once per sentence into a packed matrix of their own, so that each of its steps reads one
// small block of memory in order. Every sentence of a batch has its own list: rows of one sentence share each load of a
// weight anyway, a union would be several times as long for each of them, and what a sentence may say does not depend
// on its neighbours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "network.h"

namespace dynhat {

class Output {
 public:
  // On the whole vocabulary.
  explicit Output(const DynhatMatrix& whole) : matrix_(whole) {}

  // On `count` tokens, ascending.
  Output(const DynhatMatrix& whole, const int32_t* tokens, int count);

  // As it lies in this object's memory: valid until this object moves.
  DynhatMatrix matrix() const;

  int size() const { return matrix_.num_out; }
  int token(int place) const { return tokens_.empty() ? place : tokens_[place]; }
  int place(int token) const;  // -1: not listed

  // Scores of listed tokens at their places of the whole vocabulary, minus infinity elsewhere.
  void spread(const float* scores, float* whole, int vocab_size) const;

  size_t size_bytes() const;

 private:
  DynhatMatrix matrix_;
  std::vector<int32_t> tokens_;  // none: the whole vocabulary
  std::vector<float> floats_, scales_, bias_;
  std::vector<int8_t> int8s_;
};

}  // namespace dynhat
