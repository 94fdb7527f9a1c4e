// The C interface that ctypes calls: packing, encoding, decoding step by step, searching. Validates nothing that
// library.py has validated already; catches what may be thrown, since C has no exceptions.
#include <algorithm>
#include <chrono>
#include <new>

#include "decoder.h"
#include "encoder.h"
#include "matrix.h"
#include "search.h"

#ifndef DYNHAT_SOURCE_HASH
#define DYNHAT_SOURCE_HASH ""
#endif

#define DYNHAT_EXPORT extern "C" __attribute__((visibility("default")))

using dynhat::Decoder;
using dynhat::Encoding;
using dynhat::Search;

DYNHAT_EXPORT const char* dynhat_source_hash() { return DYNHAT_SOURCE_HASH; }

// Whether this machine runs what build.py compiles for newer x86 processors.
DYNHAT_EXPORT int dynhat_has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return 0;
#endif
}

DYNHAT_EXPORT void dynhat_pack_float(const float* weight, int stride, int num_out, int num_in, float* panels) {
  dynhat::pack_float(weight, stride, num_out, num_in, panels);
}

DYNHAT_EXPORT void dynhat_pack_int8(const float* weight, int stride, int num_out, int num_in, int8_t* panels,
                                    float* scales) {
  dynhat::pack_int8(weight, stride, num_out, num_in, panels, scales);
}

DYNHAT_EXPORT Encoding* dynhat_encode(const DynhatNetwork* network, const int32_t* tokens, const int32_t* lengths,
                                      int num_sentences) try {
  dynhat::Team team(network->num_threads);
  return new Encoding(dynhat::encode(*network, tokens, lengths, num_sentences, team));
} catch (const std::bad_alloc&) {
  return nullptr;
}

DYNHAT_EXPORT void dynhat_free_encoding(Encoding* encoding) { delete encoding; }

// `listed`: tokens each sentence may be translated with, one sentence's after the other; null: the whole vocabulary.
DYNHAT_EXPORT Decoder* dynhat_start(const DynhatNetwork* network, const Encoding* encoding, const int32_t* listed,
                                    const int32_t* listed_counts, int num_beams, int capacity) try {
  return new Decoder(*network, *encoding, {listed, listed_counts}, num_beams, capacity);
} catch (const std::bad_alloc&) {
  return nullptr;
}

DYNHAT_EXPORT void dynhat_free_decoder(Decoder* decoder) { delete decoder; }

DYNHAT_EXPORT int dynhat_step(Decoder* decoder, const int32_t* tokens, float* logits) try {
  decoder->step(tokens);
  const int vocab = decoder->vocab_size();
  for (int r = 0; r < decoder->num_rows(); ++r)
    decoder->output(r).spread(decoder->scores(r), logits + size_t(r) * vocab, vocab);
  return 0;
} catch (const std::bad_alloc&) {
  return -1;
}

DYNHAT_EXPORT void dynhat_keep(Decoder* decoder, const int32_t* rows, int num_rows) { decoder->keep(rows, num_rows); }

DYNHAT_EXPORT int64_t dynhat_decoder_bytes(const Decoder* decoder) {
  return static_cast<int64_t>(decoder->size_bytes());
}

DYNHAT_EXPORT Search* dynhat_search(Decoder* decoder, const int32_t* max_lengths, int num_sentences, int beam_size,
                                    int min_length, int no_repeat_size, int eos_id, int pad_id) try {
  return new Search(*decoder, max_lengths, num_sentences, {beam_size, min_length, no_repeat_size, eos_id, pad_id});
} catch (const std::bad_alloc&) {
  return nullptr;
}

DYNHAT_EXPORT void dynhat_free_search(Search* search) { delete search; }

// Searches for about `seconds`, then comes back to be called again: 1 while there is more to do, 0 when all is
// done, -1 without memory.
DYNHAT_EXPORT int dynhat_search_for(Search* search, double seconds) try {
  using Clock = std::chrono::steady_clock;
  const auto until = Clock::now() + std::chrono::duration<double>(seconds);
  while (search->step())
    if (Clock::now() >= until) return 1;
  return 0;
} catch (const std::bad_alloc&) {
  return -1;
}

// The number of a sentence's hypotheses.
DYNHAT_EXPORT int dynhat_num_hypotheses(const Search* search, int sentence) {
  return static_cast<int>(search->finished()[sentence].size());
}

// The length of one; its tokens and totals are copied where there is somewhere to copy them to.
DYNHAT_EXPORT int dynhat_hypothesis(const Search* search, int sentence, int index, int32_t* tokens, float* totals) {
  const dynhat::Hypothesis& hypothesis = search->finished()[sentence][index];
  if (tokens != nullptr) {
    std::copy(hypothesis.tokens.begin(), hypothesis.tokens.end(), tokens);
    std::copy(hypothesis.totals.begin(), hypothesis.totals.end(), totals);
  }
  return static_cast<int>(hypothesis.tokens.size());
}
