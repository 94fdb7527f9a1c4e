// One matrix product as a value, and the kernels that do a part of it. Knows no threads.
#pragma once

#include <cstdint>

#include "network.h"

namespace dynhat {

constexpr int kPanel = 16;  // outputs that are packed together

enum class Then { kStore, kRelu, kAdd };  // what happens to W x + b: stored, its positive part stored, added to y

// What a product of int8 weights needs to write to.
struct Scratch {
  int16_t* quantised = nullptr;  // rows * even(inputs) of the largest product
  float* row_scales = nullptr;   // rows
};

// y[n] = W x[n] + b for `rows` rows, `x_stride` and `y_stride` floats apart.
struct Product {
  DynhatMatrix matrix;
  const float* x;
  float* y;
  Scratch scratch;  // for int8: the rows of x, quantised already
  int x_stride, y_stride, rows;
  Then then;
};

inline int num_panels(int outputs) { return (outputs + kPanel - 1) / kPanel; }
inline int even(int n) { return (n + 1) / 2 * 2; }

// Does panels `first` to `last` of it. y begins at output `first * kPanel`, which need not be where product.y does.
void multiply_panels(const Product& product, int first, int last, float* y, int y_stride, Then then);

// Fills the scratch of an int8 product.
void quantise(const Product& product);

}  // namespace dynhat
