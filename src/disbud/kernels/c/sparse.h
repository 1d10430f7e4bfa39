// The shapes that Python hands to the sparse kernels; pattern.py and library.py hold the same fields in the same order.
#ifndef DISBUD_SPARSE_H
#define DISBUD_SPARSE_H

#include <stdint.h>

// How the pixels of one phase of a layer's output gather pixels of its input. Steps and places count floats.
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
};

struct batch {
    int32_t blocks, threads;
    int64_t input_block, output_block;  // floats from a block of images to the next
};

// output = bias (in the lanes that hold images) + sum of values times input; bias may be null.
void disbud_gather(const struct gather *shape, const struct batch *batch, const float *values, const float *bias,
                   const float *lanes, const float *input, float *output);

// result[k] += sum over all pixels of gradient times entry k's input, for the gather that made the output.
void disbud_weight_gradient(const struct gather *shape, const struct batch *batch, const float *input,
                            const float *gradient, float *result);

// to[i] = from[positions[i]], and to[positions[i]] = from[i].
void disbud_pick(const float *from, const int32_t *positions, int64_t count, float *to);
void disbud_put(const float *from, const int32_t *positions, int64_t count, float *to);

#endif
