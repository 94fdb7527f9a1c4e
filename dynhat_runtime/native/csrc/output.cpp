// Gathering listed rows, and the ways between a list and the vocabulary.
#include "output.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "product.h"

namespace dynhat {
namespace {

// A unit is what one input (or pair of inputs, in int8) weighs on one output; kPanel of them lie together.
// Outputs beyond the last are zero.
template <typename Unit>
void gather(const Unit* from, size_t panel_units, const int32_t* tokens, int count, size_t num_units, Unit* to) {
  for (int begin = 0; begin < count; begin += kPanel, to += num_units * kPanel) {
    const int here = std::min(kPanel, count - begin);
    const Unit* rows[kPanel];
    for (int o = 0; o < here; ++o)
      rows[o] = from + tokens[begin + o] / kPanel * panel_units * kPanel + tokens[begin + o] % kPanel;
    for (size_t i = 0; i < num_units; ++i)
      for (int o = 0; o < here; ++o) to[i * kPanel + o] = rows[o][i * kPanel];
  }
}

}  // namespace

Output::Output(const DynhatMatrix& whole, const int32_t* tokens, int count)
    : matrix_(whole), tokens_(tokens, tokens + count) {
  const size_t padded = size_t(num_panels(count)) * kPanel;
  matrix_.num_out = count;
  matrix_.panel_inputs = whole.num_in;
  if (whole.is_int8) {
    int8s_.resize(padded * even(whole.num_in));
    scales_.resize(padded);
    gather(static_cast<const int16_t*>(whole.panels), even(whole.panel_inputs) / 2, tokens, count,
           even(whole.num_in) / 2, reinterpret_cast<int16_t*>(int8s_.data()));
    for (int i = 0; i < count; ++i) scales_[i] = whole.scales[tokens[i]];
  } else {
    floats_.resize(padded * whole.num_in);
    gather(static_cast<const float*>(whole.panels), whole.panel_inputs, tokens, count, whole.num_in, floats_.data());
  }
  if (whole.bias != nullptr)
    for (int i = 0; i < count; ++i) bias_.push_back(whole.bias[tokens[i]]);
}

DynhatMatrix Output::matrix() const {
  DynhatMatrix matrix = matrix_;
  if (tokens_.empty()) return matrix;
  matrix.panels = matrix.is_int8 ? static_cast<const void*>(int8s_.data()) : floats_.data();
  matrix.scales = matrix.is_int8 ? scales_.data() : nullptr;
  matrix.bias = bias_.empty() ? nullptr : bias_.data();
  return matrix;
}

int Output::place(int token) const {
  if (tokens_.empty()) return token;
  const auto found = std::lower_bound(tokens_.begin(), tokens_.end(), token);
  return found != tokens_.end() && *found == token ? static_cast<int>(found - tokens_.begin()) : -1;
}

void Output::spread(const float* scores, float* whole, int vocab_size) const {
  if (tokens_.empty()) {
    std::copy_n(scores, vocab_size, whole);
    return;
  }
  std::fill_n(whole, vocab_size, -std::numeric_limits<float>::infinity());
  for (int i = 0; i < size(); ++i) whole[tokens_[i]] = scores[i];
}

size_t Output::size_bytes() const {
  return (floats_.size() + scales_.size() + bias_.size()) * sizeof(float) + int8s_.size() +
         tokens_.size() * sizeof(int32_t);
}

}  // namespace dynhat
