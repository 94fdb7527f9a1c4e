// Beam search over a decoder, by the rules of decoding/beam_search.py, which is the reference. Knows no text.
#pragma once

#include <cstdint>
#include <vector>

#include "decoder.h"

namespace dynhat {

struct SearchOptions {
  int beam_size, min_length, no_repeat_size, eos_id, pad_id;
};

// A finished output: tokens end in eos; totals[t] is the sum of log-probabilities up to and with token t.
struct Hypothesis {
  std::vector<int32_t> tokens;
  std::vector<float> totals;
};

class Search {
 public:
  // `max_lengths`: per sentence, tokens before eos is forced.
  Search(Decoder& decoder, const int32_t* max_lengths, int num_sentences, SearchOptions options);

  // One more token for every sentence still searched; false when there is none.
  bool step();

  // Per sentence, in the order they finished; at most beam_size.
  const std::vector<std::vector<Hypothesis>>& finished() const { return finished_; }

 private:
  struct Candidate {
    float total;
    int row, token;
  };

  bool advance(int first_row, std::vector<Hypothesis>& hypotheses);
  void go_on(const Candidate& candidate);
  void only_eos(int first_row);
  void best_candidates(int first_row, bool is_too_short);
  void rule_out_repeats(int row, const Output& output, float* logits);
  float bar(int row, float share) const;
  void offer(Candidate candidate);
  void finish(const Candidate& candidate, std::vector<Hypothesis>& hypotheses) const;

  Decoder& decoder_;
  const SearchOptions options_;
  const int num_candidates_;
  std::vector<int> max_lengths_, active_;         // active_: sentences still searched
  std::vector<int32_t> tokens_, parents_;         // per row: its last token; the row it goes on from
  std::vector<float> totals_;                     // per row
  std::vector<std::vector<int32_t>> said_;        // [position][row that wrote it]: the token read at that position
  std::vector<std::vector<float>> said_totals_;   // and the total up to it
  std::vector<Candidate> candidates_;             // of one sentence, best first
  std::vector<int32_t> history_;                  // of one row: its tokens so far
  std::vector<std::vector<Hypothesis>> finished_;
};

}  // namespace dynhat
