// The shapes that Python hands to the sparse kernels; pattern.py and library.py hold the same fields in the same order.
#ifndef DISBUD_SPARSE_H
#define DISBUD_SPARSE_H

#include <stdint.h>

#include "simd.h"

// How the pixels of one phase of a layer's output gather pixels of its input. Steps and places count numbers.
//
// The entries (kept weights) lie by blocks of input channels, so that a block's rows stay in the first cache, then by
// output, then by band: the vertical tap they belong to. A row of pixels uses the bands that lie inside the image.
struct gather {
    int32_t outputs, channel_blocks, bands, rows, columns;
    int32_t halo;  // zero columns to write beside each row of the output; 0 where the phase writes only some pixels
    int64_t input_origin, input_row, input_pixel;     // of the first pixel, from a row to the next, from a pixel
    int64_t output_origin, output_row, output_pixel;  // the same of the output
    const int64_t *places;                            // per output: where its channel starts
    const int32_t *starts;                            // [channel_blocks][outputs][bands + 1]: numbers of entries
    const int32_t *offsets;                           // per entry: from the pixel's place in the input
    const int32_t *first_band, *last_band;            // per row
    const int64_t *sources;                           // per input channel: where it starts
    int64_t source_count;
    int64_t reach;  // from a pixel's row to the lowest that it reads: what the tiles before it have not read
};

struct batch {
    int32_t blocks, threads;
    int64_t input_block, output_block;  // numbers from a block of images to the next
};

// What is done to a sum before it is stored.
struct finish {
    const float *bias;   // per output, or null; added in the lanes that hold images
    const float *lanes;  // [blocks][LANES]: 1 where there is an image, else 0
    const number *added;  // or null: what lies as the output does and is added
    float slope;         // of the activation below zero: 1 is none, 0 is a ReLU
};

// output = activation of (bias + added + sum of values times input).
void disbud_gather(const struct gather *shape, const struct batch *batch, const struct finish *finish,
                   const float *values, const number *input, number *output);

// result[k] = sum over all pixels of gradient times entry k's input, for the gather that made the output. The pixels
// are walked in that many parts, whose sums are added at the end in their order; result has room for those of all.
void disbud_weight_gradient(const struct gather *shape, const struct batch *batch, int32_t parts, const number *input,
                            const number *gradient, float *result);

// to[i] = from[positions[i]], the scaled one also times its output's scale; to[positions[i]] = from[i], the others 0.
void disbud_pick(const float *from, const int32_t *positions, int64_t count, float *to);
void disbud_pick_scaled(const struct gather *shape, const float *from, const int32_t *positions, const float *scale,
                        float *to);
void disbud_put(const float *from, const int32_t *positions, int64_t count, float *to, int64_t size);

#endif
