// Beams share history: a row keeps a list of which row wrote each position, so a reorder copies that list and no
// key or value.
#include "decoder.h"

#include <algorithm>

#include "simd.h"

namespace dynhat {
namespace {

int rounded_up(int n) { return (n + kLanes - 1) / kLanes * kLanes; }

}  // namespace

Decoder::Decoder(const DynhatNetwork& network, const Encoding& encoding, Listed listed, int num_beams, int capacity)
    : net_(network),
      dim_(network.tgt.dim),
      width_(network.qkv_dim),
      max_rows_(encoding.num_sentences() * num_beams),
      num_rows_(max_rows_),
      capacity_(0),
      team_(network.num_threads) {
  int hidden = 0;
  for (int i = 0; i < net_.num_decoder_layers; ++i)
    hidden = std::max(hidden, net_.decoder_layers[i].feed_forward.expand.num_out);
  for (int r = 0; r < num_rows_; ++r) sentence_of_row_.push_back(r / num_beams);
  spare_sentences_.resize(num_rows_);
  x_.resize(size_t(num_rows_) * dim_);
  normed_.resize(x_.size());
  qkv_.resize(size_t(num_rows_) * 3 * width_);
  query_.resize(size_t(num_rows_) * width_);
  context_.resize(size_t(num_rows_) * width_);
  hidden_.resize(size_t(num_rows_) * hidden);
  list_outputs(listed, encoding.num_sentences());
  const int widest = std::max({dim_, width_, hidden, encoding.dim});
  const int most_rows = std::max(num_rows_, encoding.num_rows());
  quantised_.resize(size_t(most_rows) * even(widest));
  row_scales_.resize(most_rows);
  scratch_ = {quantised_.data(), row_scales_.data()};
  project_memory(encoding);
  reserve(capacity);
}

void Decoder::list_outputs(Listed listed, int num_sentences) {
  if (listed.tokens == nullptr) {
    outputs_.emplace_back(net_.output);
  } else {
    outputs_.reserve(num_sentences);
    for (int s = 0; s < num_sentences; listed.tokens += listed.counts[s++])
      outputs_.emplace_back(net_.output, listed.tokens, listed.counts[s]);
  }
  for (const Output& output : outputs_) logits_stride_ = std::max(logits_stride_, output.size());
  logits_.resize(size_t(num_rows_) * logits_stride_);
}

void Decoder::project_memory(const Encoding& encoding) {
  const int sentences = encoding.num_sentences();
  std::vector<float> projected(size_t(encoding.num_rows()) * 2 * width_);
  cross_.resize(net_.num_decoder_layers);
  int longest = 0;
  for (int i = 0; i < net_.num_decoder_layers; ++i) {
    const DynhatCrossAttention& cross = net_.decoder_layers[i].cross;
    const int span = std::min(static_cast<int>(cross.span), static_cast<int>(encoding.outputs.size()));
    size_t num_keys = 0, num_values = 0;
    for (int s = 0; s < sentences; ++s) {
      const int length = encoding.lengths[s] * span;
      memory_lengths_.push_back(length);
      memory_strides_.push_back(rounded_up(length));
      key_starts_.push_back(num_keys);
      value_starts_.push_back(num_values);
      num_keys += size_t(width_) * rounded_up(length);
      num_values += size_t(width_) * length;
      longest = std::max(longest, length);
    }
    cross_[i].keys.resize(num_keys);
    cross_[i].values.resize(num_values);
    for (int back = 0; back < span; ++back) {  // the last layer's output first, then the second-last's
      team_.multiply({cross.key_value, encoding.outputs[back].data(), projected.data(), scratch_, encoding.dim,
                      2 * width_, encoding.num_rows(), Then::kStore});
      for (int s = 0; s < sentences; ++s) {
        const int place = i * sentences + s, length = encoding.lengths[s];
        float* keys = &cross_[i].keys[key_starts_[place]];
        float* values = &cross_[i].values[value_starts_[place]];
        for (int t = 0; t < length; ++t) {
          const float* row = &projected[size_t(encoding.starts[s] + t) * 2 * width_];
          const int to = back * length + t;
          for (int q = 0; q < width_; ++q) keys[size_t(q) * memory_strides_[place] + to] = row[q];
          std::copy(row + width_, row + 2 * width_, values + size_t(to) * width_);
        }
      }
    }
  }
  team_.rest();  // `projected` goes
  scores_.resize(rounded_up(longest));
  values_.resize(rounded_up(longest));
}

void Decoder::reserve(int num_positions) {
  if (num_positions <= capacity_) return;
  const size_t block = size_t(max_rows_) * 2 * width_;
  std::vector<float> cache(net_.num_decoder_layers * num_positions * block);
  std::vector<int32_t> ancestors(size_t(max_rows_) * num_positions);
  for (int i = 0; i < net_.num_decoder_layers && position_ > 0; ++i)
    std::copy_n(&cache_[size_t(i) * capacity_ * block], position_ * block, &cache[size_t(i) * num_positions * block]);
  for (int r = 0; r < num_rows_ && position_ > 0; ++r)
    std::copy_n(&ancestors_[size_t(r) * capacity_], position_, &ancestors[size_t(r) * num_positions]);
  cache_.swap(cache);
  ancestors_.swap(ancestors);
  spare_ancestors_.resize(ancestors_.size());
  capacity_ = num_positions;
  const size_t padded = rounded_up(num_positions);
  scores_.resize(std::max(scores_.size(), padded));
  keys_.resize(padded);
  values_.resize(std::max(values_.size(), padded));
}

float* Decoder::cached(int layer, int t, int row) {
  return &cache_[((size_t(layer) * capacity_ + t) * max_rows_ + row) * 2 * width_];
}

void Decoder::step(const int32_t* tokens) {
  if (position_ == capacity_) reserve(2 * capacity_);
  for (int r = 0; r < num_rows_; ++r) {
    embed(net_.tgt, tokens[r], position_, &x_[size_t(r) * dim_]);
    ancestors_[size_t(r) * capacity_ + position_] = r;
  }
  for (int i = 0; i < net_.num_decoder_layers; ++i) layer(i);
  ++position_;
  const float* last = x_.data();
  if (net_.decoder_norm.dim > 0) {
    for (int r = 0; r < num_rows_; ++r) normalise(net_.decoder_norm, &x_[size_t(r) * dim_], &normed_[size_t(r) * dim_]);
    last = normed_.data();
  }
  project_outputs(last);
}

// All rows that share an output at once.
void Decoder::project_outputs(const float* last) {
  for (int first = 0, end; first < num_rows_; first = end) {
    for (end = first + 1; end < num_rows_ && &output(end) == &output(first); ++end) {}
    team_.multiply({output(first).matrix(), last + size_t(first) * dim_, scores(first), scratch_, dim_, logits_stride_,
                    end - first, Then::kStore});
  }
}

void Decoder::layer(int index) {
  const DynhatDecoderLayer& layer = net_.decoder_layers[index];
  times(layer.attention.qkv, before(layer.attention.norm), dim_, qkv_.data(), 3 * width_, Then::kStore);
  attend_self(layer.attention, index);
  times(layer.attention.out, context_.data(), width_, x_.data(), dim_, Then::kAdd);
  after(layer.attention.norm);
  times(layer.cross.query, before(layer.cross.norm), dim_, query_.data(), width_, Then::kStore);
  attend_cross(layer.cross, index);
  times(layer.cross.out, context_.data(), width_, x_.data(), dim_, Then::kAdd);
  after(layer.cross.norm);
  const int hidden = layer.feed_forward.expand.num_out;
  times(layer.feed_forward.expand, before(layer.feed_forward.norm), dim_, hidden_.data(), hidden, Then::kRelu);
  times(layer.feed_forward.contract, hidden_.data(), hidden, x_.data(), dim_, Then::kAdd);
  after(layer.feed_forward.norm);
}

void Decoder::attend_self(const DynhatSelfAttention& attention, int index) {
  const int heads = static_cast<int>(attention.num_heads), count = position_ + 1;
  for (int r = 0; r < num_rows_; ++r) {
    const float* qkv = &qkv_[size_t(r) * 3 * width_];
    std::copy(qkv + width_, qkv + 3 * width_, cached(index, position_, r));
  }
  for (int r = 0; r < num_rows_; ++r) {
    for (int t = 0; t < rounded_up(count); ++t) {
      keys_[t] = cached(index, std::min(t, position_), ancestor(r, std::min(t, position_)));
      values_[t] = keys_[t] + width_;
    }
    attend_scattered(&qkv_[size_t(r) * 3 * width_], keys_.data(), values_.data(), count, heads, width_ / heads,
                     scores_.data(), &context_[size_t(r) * width_]);
  }
}

void Decoder::attend_cross(const DynhatCrossAttention& attention, int index) {
  const int sentences = static_cast<int>(memory_lengths_.size()) / net_.num_decoder_layers;
  int listed = -1;
  for (int r = 0; r < num_rows_; ++r) {
    const int place = index * sentences + sentence_of_row_[r], count = memory_lengths_[place];
    if (place != listed) {
      const float* values = &cross_[index].values[value_starts_[place]];
      for (int t = 0; t < count; ++t) values_[t] = values + size_t(t) * width_;
      listed = place;
    }
    attend_transposed(&query_[size_t(r) * width_], {&cross_[index].keys[key_starts_[place]], memory_strides_[place]},
                      values_.data(), count, attention.num_heads, width_ / attention.num_heads, scores_.data(),
                      &context_[size_t(r) * width_]);
  }
}

void Decoder::keep(const int32_t* rows, int num_rows) {
  for (int r = 0; r < num_rows; ++r) {
    std::copy_n(&ancestors_[size_t(rows[r]) * capacity_], position_, &spare_ancestors_[size_t(r) * capacity_]);
    spare_sentences_[r] = sentence_of_row_[rows[r]];
  }
  ancestors_.swap(spare_ancestors_);
  sentence_of_row_.swap(spare_sentences_);
  num_rows_ = num_rows;
}

void Decoder::times(const DynhatMatrix& matrix, const float* x, int x_stride, float* y, int y_stride, Then then) {
  team_.multiply({matrix, x, y, scratch_, x_stride, y_stride, num_rows_, then});
}

const float* Decoder::before(const DynhatNorm& norm) {
  if (!net_.norm_first) return x_.data();
  for (int r = 0; r < num_rows_; ++r) normalise(norm, &x_[size_t(r) * dim_], &normed_[size_t(r) * dim_]);
  return normed_.data();
}

void Decoder::after(const DynhatNorm& norm) {
  if (net_.norm_first) return;
  for (int r = 0; r < num_rows_; ++r) normalise(norm, &x_[size_t(r) * dim_], &x_[size_t(r) * dim_]);
}

size_t Decoder::size_bytes() const {
  size_t floats = cache_.size();
  for (const Cross& cross : cross_) floats += cross.keys.size() + cross.values.size();
  size_t bytes = floats * sizeof(float);
  for (const Output& output : outputs_) bytes += output.size_bytes();
  return bytes;
}

}  // namespace dynhat
