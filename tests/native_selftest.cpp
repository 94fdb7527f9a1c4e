// Translates made-up sentences with made-up weights and prints what comes out, to be compared between processors.
// Compiled and run by test_native_build.py; links the native decoder's sources.
#include <cstdio>
#include <memory>
#include <vector>

#include "decoder.h"
#include "encoder.h"
#include "matrix.h"
#include "search.h"

namespace {

uint32_t state = 1;

float uniform() {  // -1 to 1
  state = state * 1664525u + 1013904223u;
  return static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
}

std::vector<std::unique_ptr<std::vector<float>>> floats;
std::vector<std::unique_ptr<std::vector<int8_t>>> bytes;

float* random_floats(size_t count, float scale, float offset = 0.0f) {
  floats.push_back(std::make_unique<std::vector<float>>(count));
  for (float& value : *floats.back()) value = offset + scale * uniform();
  return floats.back()->data();
}

DynhatMatrix random_matrix(int num_out, int num_in, bool is_int8, bool has_bias = true) {
  const float* weight = random_floats(static_cast<size_t>(num_out) * num_in, 2.5f / num_in);
  const int padded = dynhat::num_panels(num_out) * dynhat::kPanel;
  DynhatMatrix matrix = {nullptr, nullptr, has_bias ? random_floats(num_out, 0.3f) : nullptr, num_out, num_in, num_in, is_int8};
  if (is_int8) {
    bytes.push_back(std::make_unique<std::vector<int8_t>>(static_cast<size_t>(padded) * dynhat::even(num_in)));
    float* scales = random_floats(padded, 0.0f);
    dynhat::pack_int8(weight, num_in, num_out, num_in, bytes.back()->data(), scales);
    matrix.panels = bytes.back()->data();
    matrix.scales = scales;
  } else {
    float* panels = random_floats(static_cast<size_t>(padded) * num_in, 0.0f);
    dynhat::pack_float(weight, num_in, num_out, num_in, panels);
    matrix.panels = panels;
  }
  return matrix;
}

DynhatNorm random_norm(int dim) { return {random_floats(dim, 0.2f, 1.0f), random_floats(dim, 0.2f), dim}; }

// One sentence is listed the end alone, one a few tokens, one about half of all.
const int32_t kListed[] = {2, 2, 40, 41, 2, 3, 5, 8, 13, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 60};
const int32_t kListedCounts[] = {1, 3, 21};

void translate(bool is_int8, bool norm_first, bool is_listed, int num_threads) {
  constexpr int kEnc = 50, kDec = 44, kWidth = 40, kHidden = 600, kVocab = 333, kPositions = 64;
  state = 7;
  std::vector<DynhatEncoderLayer> encoder(3);
  std::vector<DynhatDecoderLayer> decoder(2);
  const auto matrix = [&](int num_out, int num_in) { return random_matrix(num_out, num_in, is_int8); };
  for (auto& layer : encoder) {
    layer.attention = {matrix(3 * kWidth, kEnc), matrix(kEnc, kWidth), random_norm(kEnc), 5};
    layer.feed_forward = {matrix(kHidden, kEnc), matrix(kEnc, kHidden), random_norm(kEnc)};
  }
  int span = 1;
  for (auto& layer : decoder) {
    layer.attention = {matrix(3 * kWidth, kDec), matrix(kDec, kWidth), random_norm(kDec), 4};
    layer.cross = {matrix(kWidth, kDec), matrix(2 * kWidth, kEnc), matrix(kDec, kWidth), random_norm(kDec), 5, span++};
    layer.feed_forward = {matrix(kHidden, kDec), matrix(kDec, kHidden), random_norm(kDec)};
  }
  DynhatNetwork network = {};
  network.src = {random_floats(kVocab * kEnc, 0.15f), random_floats(kPositions * kEnc, 1.0f), kEnc, kEnc, kEnc, 1, kVocab, kPositions};
  network.tgt = {random_floats(kVocab * kDec, 0.15f), random_floats(kPositions * kDec, 1.0f), kDec, kDec, kDec, 1, kVocab, kPositions};
  network.encoder_layers = encoder.data();
  network.decoder_layers = decoder.data();
  if (norm_first) {
    network.encoder_norm = random_norm(kEnc);
    network.decoder_norm = random_norm(kDec);
  }
  network.output = random_matrix(kVocab, kDec, is_int8, false);
  network.num_encoder_layers = 3;
  network.num_decoder_layers = 2;
  network.num_super_encoder_layers = 4;
  network.norm_first = norm_first;
  network.qkv_dim = kWidth;
  network.num_threads = num_threads;
  const int32_t tokens[] = {5, 6, 7, 8, 2, 9, 2, 40, 50, 60, 70, 80, 90, 100, 110, 2}, lengths[] = {5, 2, 9};
  const int32_t caps[] = {12, 6, 17};
  dynhat::Team team(num_threads);
  const dynhat::Encoding encoding = dynhat::encode(network, tokens, lengths, 3, team);
  const dynhat::Listed listed = {is_listed ? kListed : nullptr, is_listed ? kListedCounts : nullptr};
  dynhat::Decoder decoding(network, encoding, listed, 4, 2);
  dynhat::Search search(decoding, caps, 3, {4, 1, 3, 2, 1});
  while (search.step()) {
  }
  std::printf("int8 %d, norm first %d, listed %d\n", is_int8, norm_first, is_listed);
  for (const auto& hypotheses : search.finished()) {
    for (const auto& hypothesis : hypotheses) {
      for (int32_t token : hypothesis.tokens) std::printf("%d ", token);
      std::printf("%.3f\n", hypothesis.totals.back());
    }
  }
}

}  // namespace

int main() {
  for (bool is_int8 : {false, true})
    for (bool norm_first : {false, true})
      for (bool is_listed : {false, true}) translate(is_int8, norm_first, is_listed, is_int8 ? 2 : 1);
  return 0;
}
