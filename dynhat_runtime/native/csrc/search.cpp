// Rules, as in the reference: pad never; eos not before `min_length`, alone at the cap; no token that would make the
// last `no_repeat_size` tokens a run that has come before; of the 2 x beam best
// candidates an eos counts only among the first `beam` and while fewer than `beam` hypotheses have finished; the
// first `beam` others go on; a sentence ends with `beam` hypotheses or at its cap.
#include "search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "simd.h"

namespace dynhat {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// log of the sum of exp(x), the largest taken out first.
float log_sum_exp(const float* x, int count) {
  Floats most = all(kNever);
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) most = larger(load(x + i), most);
  float peak = largest(most);
  for (int k = i; k < count; ++k) peak = std::max(peak, x[k]);
  Floats sums = {};
  for (int k = 0; k + kLanes <= count; k += kLanes) sums += exp(load(x + k) - peak);
  float total = sum(sums);
  for (; i < count; ++i) total += std::exp(x[i] - peak);
  return peak + std::log(total);
}

bool any_above(Floats values, float bar) {
#if defined(__AVX2__)
  return _mm256_movemask_ps(__m256(values > bar)) != 0;
#else
  return largest(values) > bar;
#endif
}

}  // namespace

Search::Search(Decoder& decoder, const int32_t* max_lengths, int num_sentences, SearchOptions options)
    : decoder_(decoder),
      options_(options),
      num_candidates_(std::min(2 * options.beam_size, decoder.vocab_size())),
      max_lengths_(max_lengths, max_lengths + num_sentences),
      finished_(num_sentences) {
  const int rows = num_sentences * options.beam_size;
  const int longest = num_sentences == 0 ? 0 : *std::max_element(max_lengths_.begin(), max_lengths_.end());
  for (int s = 0; s < num_sentences; ++s) active_.push_back(s);
  tokens_.assign(rows, options.eos_id);
  // Before the first token a sentence's rows are equal: only the first may be continued.
  totals_.assign(rows, kNever);
  for (int s = 0; s < num_sentences; ++s) totals_[s * options.beam_size] = 0.0f;
  parents_.reserve(rows);
  candidates_.reserve(num_candidates_ + 1);
  decoder_.reserve(longest + 1);
  said_.assign(longest + 1, std::vector<int32_t>(rows));
  said_totals_.assign(longest + 1, std::vector<float>(rows));
}

bool Search::step() {
  if (active_.empty()) return false;
  const int position = decoder_.position(), beam = options_.beam_size;
  std::copy(tokens_.begin(), tokens_.end(), said_[position].begin());
  std::copy(totals_.begin(), totals_.end(), said_totals_[position].begin());
  decoder_.step(tokens_.data());
  parents_.clear();
  size_t num_survivors = 0;
  for (size_t place = 0; place < active_.size(); ++place) {
    const int sentence = active_[place], first_row = static_cast<int>(place) * beam;
    const bool is_forced = position >= max_lengths_[sentence];
    if (is_forced) {
      only_eos(first_row);
    } else {
      best_candidates(first_row, position < options_.min_length);
    }
    const bool goes_on = advance(first_row, finished_[sentence]) && !is_forced;
    if (goes_on) active_[num_survivors++] = sentence;
    else parents_.resize(num_survivors * beam);
  }
  active_.resize(num_survivors);
  tokens_.resize(parents_.size());
  totals_.resize(parents_.size());
  if (!active_.empty()) decoder_.keep(parents_.data(), static_cast<int>(parents_.size()));
  return !active_.empty();
}

// Finishes what ended in eos, and writes the rows to go on with over those that are done with: they never overtake.
bool Search::advance(int first_row, std::vector<Hypothesis>& hypotheses) {
  const int beam = options_.beam_size;
  int rank = 0, num_chosen = 0;
  for (const Candidate& candidate : candidates_) {
    if (candidate.token == options_.eos_id) {
      if (rank < beam && static_cast<int>(hypotheses.size()) < beam) finish(candidate, hypotheses);
    } else if (num_chosen < beam) {
      ++num_chosen;
      go_on(candidate);
    }
    ++rank;
  }
  // A vocabulary smaller than the beam: rows that can never win keep the places.
  for (; num_chosen < beam; ++num_chosen) go_on({kNever, first_row, options_.eos_id});
  return static_cast<int>(hypotheses.size()) < beam;
}

void Search::go_on(const Candidate& candidate) {
  tokens_[parents_.size()] = candidate.token;
  totals_[parents_.size()] = candidate.total;
  parents_.push_back(candidate.row);
}

void Search::only_eos(int first_row) {
  candidates_.clear();
  for (int row = first_row; row < first_row + options_.beam_size; ++row) {
    const float* logits = decoder_.scores(row);
    const Output& output = decoder_.output(row);
    const int eos = output.place(options_.eos_id);
    if (eos >= 0 && totals_[row] > kNever)
      offer({logits[eos] - log_sum_exp(logits, output.size()) + totals_[row], row, options_.eos_id});
  }
}

void Search::best_candidates(int first_row, bool is_too_short) {
  candidates_.clear();
  for (int row = first_row; row < first_row + options_.beam_size; ++row) {
    if (!(totals_[row] > kNever)) continue;
    float* logits = decoder_.scores(row);
    const Output& output = decoder_.output(row);
    const int count = output.size(), pad = output.place(options_.pad_id), eos = output.place(options_.eos_id);
    const float share = log_sum_exp(logits, count);  // before anything is ruled out: it still has its share
    if (pad >= 0) logits[pad] = kNever;
    if (is_too_short && eos >= 0) logits[eos] = kNever;
    if (options_.no_repeat_size > 0) rule_out_repeats(row, output, logits);
    int place = 0;
    for (; place + kLanes <= count; place += kLanes) {
      // Cheap and a little too generous; `offer` decides.
      if (!any_above(load(logits + place), bar(row, share))) continue;
      for (int i = place; i < place + kLanes; ++i) offer({logits[i] - share + totals_[row], row, output.token(i)});
    }
    for (; place < count; ++place) offer({logits[place] - share + totals_[row], row, output.token(place)});
  }
}

void Search::rule_out_repeats(int row, const Output& output, float* logits) {
  const int before = options_.no_repeat_size - 1;  // tokens that lead up to the one ruled out
  history_.clear();
  for (int t = 1; t < decoder_.position(); ++t) history_.push_back(said_[t][decoder_.ancestor(row, t)]);
  const auto latest = history_.end() - std::min<size_t>(before, history_.size());
  for (auto run = history_.begin(); history_.end() - run > before; ++run) {
    if (!std::equal(run, run + before, latest)) continue;
    const int place = output.place(run[before]);
    if (place >= 0) logits[place] = kNever;
  }
}

// No score of this row at or below it can be among the candidates.
float Search::bar(int row, float share) const {
  if (static_cast<int>(candidates_.size()) < num_candidates_) return kNever;
  const float worst = candidates_.back().total, total = totals_[row];
  return worst - total + share - 1e-5f * (std::fabs(worst) + std::fabs(total) + std::fabs(share));
}

// Takes a candidate in its place if it is among the best so far; the earlier of two equals stands first.
void Search::offer(Candidate candidate) {
  const bool is_full = static_cast<int>(candidates_.size()) == num_candidates_;
  if (!(candidate.total > (is_full ? candidates_.back().total : kNever))) return;
  auto place = candidates_.end();
  while (place != candidates_.begin() && std::prev(place)->total < candidate.total) --place;
  candidates_.insert(place, candidate);
  if (is_full) candidates_.pop_back();
}

void Search::finish(const Candidate& candidate, std::vector<Hypothesis>& hypotheses) const {
  Hypothesis hypothesis;
  for (int t = 1; t < decoder_.position(); ++t) {
    const int row = decoder_.ancestor(candidate.row, t);
    hypothesis.tokens.push_back(said_[t][row]);
    hypothesis.totals.push_back(said_totals_[t][row]);
  }
  hypothesis.tokens.push_back(candidate.token);
  hypothesis.totals.push_back(candidate.total);
  hypotheses.push_back(std::move(hypothesis));
}

}  // namespace dynhat
