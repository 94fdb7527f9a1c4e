// Packing. Knows nothing of products or layers.
//
// A matrix is packed once, at the SuperTransformer's size, into panels of kPanel outputs; within a panel the weights of
// one input lie together: [outputs / kPanel][inputs][kPanel]. A leading slice of it, as every SubTransformer uses, is
// then the first panels and the beginning of each: all slices read the same memory.
// int8 panels hold inputs in pairs, [outputs / kPanel][inputs / 2][kPanel][2], and a scale per output that is taken
// over all of its inputs, so that it is valid for every slice.
#pragma once

#include <cstdint>

namespace dynhat {

// Packs (num_out, num_in) floats, stored `stride` apart by row, into num_panels * num_in * kPanel floats.
void pack_float(const float* weight, int stride, int num_out, int num_in, float* panels);

// Packs them into num_panels * even(num_in) * kPanel int8 and num_panels * kPanel scales.
void pack_int8(const float* weight, int stride, int num_out, int num_in, int8_t* panels, float* scales);

}  // namespace dynhat
