// The arithmetic of a sparse layer over one tile: some pixels in a row, of some blocks of images, for one output.
//
// `pixels` and `blocks` are constants wherever these are called, so every loop over them is unrolled and the sums live
// in registers. `step` is the number of floats from a pixel of the input to the next, LANES where the stride is one.
#ifndef DISBUD_TILES_H
#define DISBUD_TILES_H

#include "simd.h"

// Kept weights [from, to) of one output: how far from a pixel their inputs lie, and their values.
typedef struct {
    const int32_t *offsets;
    const float *values;
    int32_t from, to;
} entries;

#define EACH_VECTOR(pixels, blocks)                     \
    UNROLL for (int block = 0; block < (blocks); block++) \
        UNROLL for (int pixel = 0; pixel < (pixels); pixel++) UNROLL for (int part = 0; part < PARTS; part++)
#define NUMBER(pixels) ((block * (pixels) + pixel) * PARTS + part)
#define PLACE(stride, step) (block * (stride) + pixel * (step) + part * WIDTH)

// output = start + sum over the entries of value * input, with the sums in registers throughout. `start` holds LANES
// floats for each block; where there is none the sum goes on from what the output holds.
INLINE void sum_tile(const int pixels, const int blocks, entries kept, const float *input, int64_t input_block,
                     const int64_t input_step, float *output, int64_t output_block, const int64_t output_step,
                     const float *start, const int64_t start_block) {
    vec sums[PIXELS_SUMMED * PARTS];
    if (start)
        EACH_VECTOR(pixels, blocks) sums[NUMBER(pixels)] = load(start + PLACE(start_block, 0));
    else
        EACH_VECTOR(pixels, blocks) sums[NUMBER(pixels)] = load(output + PLACE(output_block, output_step));
    for (int32_t k = kept.from; k < kept.to; k++) {
        const float *from = settled(input + kept.offsets[k]);
        vec value = all(kept.values[k]);
        EACH_VECTOR(pixels, blocks) sums[NUMBER(pixels)] += value * load(from + PLACE(input_block, input_step));
    }
    EACH_VECTOR(pixels, blocks) store(output + PLACE(output_block, output_step), sums[NUMBER(pixels)]);
}

// result[k] += dot product of the tile's output gradient, held in registers, and entry k's input; four k at a time.
INLINE void dot_tile(const int pixels, const int blocks, entries kept, const float *input, int64_t input_block,
                     const int64_t input_step, const float *gradient, int64_t gradient_block, float *result) {
    vec held[PIXELS_HELD * PARTS];
    EACH_VECTOR(pixels, blocks) held[NUMBER(pixels)] = load(gradient + PLACE(gradient_block, LANES));
    for (int32_t k = kept.from; k < kept.to; k += 4) {
        // The last group may be short: what it lacks is computed of its first entry, and not written.
        const int32_t left = kept.to - k;
        const int32_t *offsets = kept.offsets + k;
        const float *a = settled(input + offsets[0]), *b = settled(input + offsets[left > 1 ? 1 : 0]);
        const float *c = settled(input + offsets[left > 2 ? 2 : 0]), *d = settled(input + offsets[left > 3 ? 3 : 0]);
        vec in_a = {0}, in_b = {0}, in_c = {0}, in_d = {0};
        EACH_VECTOR(pixels, blocks) {
            vec g = held[NUMBER(pixels)];
            in_a += g * load(a + PLACE(input_block, input_step));
            in_b += g * load(b + PLACE(input_block, input_step));
            in_c += g * load(c + PLACE(input_block, input_step));
            in_d += g * load(d + PLACE(input_block, input_step));
        }
        quad sums = sums_of_four(in_a, in_b, in_c, in_d);
        if (left >= 4)
            *(quad *)(result + k) += sums;
        else
            for (int i = 0; i < left; i++) result[k + i] += sums[i];
    }
}

#endif
