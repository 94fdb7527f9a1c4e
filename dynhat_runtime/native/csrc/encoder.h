// The encoder: several sentences of different lengths side by side, without padding. Keeps what the decoder will read.
#pragma once

#include <vector>

#include "network.h"
#include "team.h"

namespace dynhat {

// What the decoder reads of B sentences: the last few layers' outputs, row after row, sentence after sentence.
struct Encoding {
  std::vector<int> lengths;  // per sentence
  std::vector<int> starts;   // first row of each, and at the end the number of rows
  // outputs[0] is the last layer's (normalised in pre-norm), outputs[1] the second-last's, as far as spans reach
  std::vector<std::vector<float>> outputs;
  int dim = 0;
  int num_rows() const { return starts.back(); }
  int num_sentences() const { return static_cast<int>(lengths.size()); }
};

// Tokens of all sentences one after the other.
Encoding encode(const DynhatNetwork& network, const int32_t* tokens, const int32_t* lengths, int num_sentences,
                Team& team);

}  // namespace dynhat
