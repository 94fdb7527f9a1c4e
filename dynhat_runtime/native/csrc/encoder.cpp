// Layer by layer over all rows; attention sentence by sentence.
#include "encoder.h"

#include <algorithm>

#include "layers.h"
#include "product.h"
#include "simd.h"

namespace dynhat {
namespace {

int rounded_up(int n) { return (n + kLanes - 1) / kLanes * kLanes; }

class Encoder {
 public:
  Encoder(const DynhatNetwork& network, Encoding& encoding, Team& team)
      : net_(network), enc_(encoding), team_(team), rows_(encoding.num_rows()), dim_(network.src.dim) {
    int widest = std::max(dim_, net_.qkv_dim), hidden = 0;
    for (int i = 0; i < net_.num_encoder_layers; ++i)
      hidden = std::max(hidden, net_.encoder_layers[i].feed_forward.expand.num_out);
    const int longest = rounded_up(*std::max_element(enc_.lengths.begin(), enc_.lengths.end()));
    x_.resize(size_t(rows_) * dim_);
    normed_.resize(net_.norm_first ? x_.size() : 0);
    qkv_.resize(size_t(rows_) * 3 * net_.qkv_dim);
    context_.resize(size_t(rows_) * net_.qkv_dim);
    hidden_.resize(size_t(rows_) * hidden);
    keys_.resize(size_t(net_.qkv_dim) * longest);
    scores_.resize(longest);
    values_.resize(longest);
    quantised_.resize(size_t(rows_) * even(std::max(widest, hidden)));
    row_scales_.resize(rows_);
    scratch_ = {quantised_.data(), row_scales_.data()};
  }

  void run(const int32_t* tokens) {
    for (int s = 0; s < enc_.num_sentences(); ++s)
      for (int t = 0; t < enc_.lengths[s]; ++t)
        embed(net_.src, tokens[enc_.starts[s] + t], t, &x_[size_t(enc_.starts[s] + t) * dim_]);
    // Layers beyond the depth in use are the identity: they repeat the last output.
    const int kept = static_cast<int>(enc_.outputs.size());
    const int depth = net_.num_encoder_layers, super_depth = net_.num_super_encoder_layers;
    for (int i = 0; i < super_depth; ++i) {
      if (i < depth) layer(net_.encoder_layers[i]);
      const int from_last = super_depth - 1 - i;
      if (from_last < kept) enc_.outputs[from_last] = x_;
    }
    if (net_.encoder_norm.dim > 0)
      for (int r = 0; r < rows_; ++r) normalise(net_.encoder_norm, &x_[size_t(r) * dim_], &enc_.outputs[0][size_t(r) * dim_]);
  }

  ~Encoder() { team_.rest(); }

 private:
  void layer(const DynhatEncoderLayer& layer) {
    const float* in = before(layer.attention.norm);
    times(layer.attention.qkv, in, dim_, qkv_.data(), 3 * net_.qkv_dim, Then::kStore);
    for (int s = 0; s < enc_.num_sentences(); ++s) attend(layer.attention, enc_.starts[s], enc_.lengths[s]);
    times(layer.attention.out, context_.data(), net_.qkv_dim, x_.data(), dim_, Then::kAdd);
    after(layer.attention.norm);
    in = before(layer.feed_forward.norm);
    const int hidden = layer.feed_forward.expand.num_out;
    times(layer.feed_forward.expand, in, dim_, hidden_.data(), hidden, Then::kRelu);
    times(layer.feed_forward.contract, hidden_.data(), hidden, x_.data(), dim_, Then::kAdd);
    after(layer.feed_forward.norm);
  }

  void attend(const DynhatSelfAttention& attention, int start, int length) {
    const int width = net_.qkv_dim, stride = rounded_up(length);
    const float* qkv = &qkv_[size_t(start) * 3 * width];
    for (int t = 0; t < length; ++t) {
      for (int q = 0; q < width; ++q) keys_[size_t(q) * stride + t] = qkv[size_t(t) * 3 * width + width + q];
      values_[t] = qkv + size_t(t) * 3 * width + 2 * width;
    }
    const int heads = static_cast<int>(attention.num_heads);
    for (int t = 0; t < length; ++t)
      attend_transposed(qkv + size_t(t) * 3 * width, {keys_.data(), stride}, values_.data(), length, heads,
                        width / heads, scores_.data(), &context_[size_t(start + t) * width]);
  }

  void times(const DynhatMatrix& matrix, const float* x, int x_stride, float* y, int y_stride, Then then) {
    team_.multiply({matrix, x, y, scratch_, x_stride, y_stride, rows_, then});
  }

  const float* before(const DynhatNorm& norm) {
    if (!net_.norm_first) return x_.data();
    for (int r = 0; r < rows_; ++r) normalise(norm, &x_[size_t(r) * dim_], &normed_[size_t(r) * dim_]);
    return normed_.data();
  }

  void after(const DynhatNorm& norm) {
    if (net_.norm_first) return;
    for (int r = 0; r < rows_; ++r) normalise(norm, &x_[size_t(r) * dim_], &x_[size_t(r) * dim_]);
  }

  const DynhatNetwork& net_;
  Encoding& enc_;
  Team& team_;
  const int rows_, dim_;
  std::vector<float> x_, normed_, qkv_, context_, hidden_, keys_, scores_, row_scales_;
  std::vector<const float*> values_;
  std::vector<int16_t> quantised_;
  Scratch scratch_;
};

}  // namespace

Encoding encode(const DynhatNetwork& network, const int32_t* tokens, const int32_t* lengths, int num_sentences,
                Team& team) {
  Encoding encoding;
  encoding.dim = network.src.dim;
  encoding.lengths.assign(lengths, lengths + num_sentences);
  encoding.starts.assign(1, 0);
  for (int length : encoding.lengths) encoding.starts.push_back(encoding.starts.back() + length);
  int span = 1;
  for (int i = 0; i < network.num_decoder_layers; ++i)
    span = std::max(span, static_cast<int>(network.decoder_layers[i].cross.span));
  encoding.outputs.resize(std::min(span, static_cast<int>(network.num_super_encoder_layers)));
  Encoder(network, encoding, team).run(tokens);
  return encoding;
}

}  // namespace dynhat
