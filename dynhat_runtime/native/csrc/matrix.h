// Packed matrices and their product with a few rows. Knows nothing of attention or layers.
//
// A matrix is packed once, at the SuperTransformer's size, into panels of kPanel outputs; within a panel the weights of
// one input lie together: [outputs / kPanel][inputs][kPanel]. A leading slice of it, as every SubTransformer uses, is
// then the first panels and the beginning of each: all slices read the same memory.
// int8 panels hold inputs in pairs, [outputs / kPanel][inputs / 2][kPanel][2], and a scale per output that is taken
// over all of its inputs, so that it is valid for every slice.
#pragma once

#include <cstddef>
#include <cstdint>

#include "network.h"
#include "team.h"

namespace dynhat {

constexpr int kPanel = 16;

inline int num_panels(int outputs) { return (outputs + kPanel - 1) / kPanel; }
inline int even(int n) { return (n + 1) / 2 * 2; }

// Packs (num_out, num_in) floats, stored `stride` apart by row, into num_panels * num_in * kPanel floats.
void pack_float(const float* weight, int stride, int num_out, int num_in, float* panels);

// Packs them into num_panels * even(num_in) * kPanel int8 and num_panels * kPanel scales.
void pack_int8(const float* weight, int stride, int num_out, int num_in, int8_t* panels, float* scales);

enum class Then { kStore, kRelu, kAdd };  // what happens to W x + b: stored, its positive part stored, added to y

// What a product needs to write to; one per decoder, grown before decoding begins.
struct Scratch {
  int16_t* quantised = nullptr;  // rows * even(inputs) of the largest product
  float* row_scales = nullptr;   // rows
};

// y[n] = W x[n] + b for `rows` rows, `x_stride` and `y_stride` floats apart.
void multiply(const DynhatMatrix& matrix, const float* x, int x_stride, int rows, float* y, int y_stride, Then then,
              const Scratch& scratch, Team& team);

}  // namespace dynhat
