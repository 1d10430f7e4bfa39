// The arithmetic of a sparse layer over one tile: some pixels in a row, of some blocks of images, for one output.
//
// `pixels` and `blocks` are constants wherever these are called, so every loop over them is unrolled and the sums live
// in registers. `step` counts the numbers from a pixel of the input to the next, LANES where the stride is one.
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

// The same vectors two by two, `first` being the number of the first of them in its row of pixels.
#define EACH_PAIR(pixels, blocks)                       \
    UNROLL for (int block = 0; block < (blocks); block++) \
        UNROLL for (int first = 0; first < (pixels) * PARTS; first += 2)
#define PAIR(pixels) (block * (pixels) * PARTS + first)
#define PAIR_PLACE(stride, step) (block * (stride) + first / PARTS * (step) + first % PARTS * WIDTH)

// What is done to the sums of a tile before they are stored as output.
typedef struct {
    const float *lanes;  // of the tile's first block: 1 where there is an image, else 0; or null, where bias is zero
    float bias, slope;   // the slope of the activation below zero: 1 is none
    const number *added;  // or null; lies as the output does
} ending;

// sums += value * input, over the entries; the sums stay in registers throughout.
INLINE void add_entries(const int pixels, const int blocks, entries kept, const number *input, int64_t input_block,
                        const int64_t input_step, vec *sums) {
    for (int32_t k = kept.from; k < kept.to; k++) {
        const number *from = settled(input + kept.offsets[k]);
        vec value = all(kept.values[k]);
        if (BY_PAIRS(pixels, input_step))
            EACH_PAIR(pixels, blocks) {
                const two both = load_two(from + PAIR_PLACE(input_block, input_step));
                sums[PAIR(pixels)] += value * at_even(both);
                sums[PAIR(pixels) + 1] += value * at_odd(both);
            }
        else
            EACH_VECTOR(pixels, blocks) sums[NUMBER(pixels)] += value * load(from + PLACE(input_block, input_step));
    }
}

// Sums made by pairs are put in order first.
INLINE void finish_sums(const int pixels, const int blocks, const int by_pairs, const ending *end, vec *sums,
                        number *output, int64_t output_block, const int64_t output_step) {
    if (by_pairs)
        EACH_PAIR(pixels, blocks) put_in_order(sums + PAIR(pixels));
    if (end->added)
        EACH_VECTOR(pixels, blocks) sums[NUMBER(pixels)] += load(end->added + PLACE(output_block, output_step));
    if (end->lanes)
        EACH_VECTOR(pixels, blocks) sums[NUMBER(pixels)] += end->bias * load_floats(end->lanes + PLACE(LANES, 0));
    if (end->slope != 1)
        EACH_VECTOR(pixels, blocks) sums[NUMBER(pixels)] = activated(end->slope, sums[NUMBER(pixels)]);
    EACH_VECTOR(pixels, blocks) store(output + PLACE(output_block, output_step), sums[NUMBER(pixels)]);
}

// result[k] += dot product of the tile's output gradient, held in registers, and entry k's input; four k at a time.
INLINE void dot_tile(const int pixels, const int blocks, entries kept, const number *input, int64_t input_block,
                     const int64_t input_step, const number *gradient, int64_t gradient_block, float *result) {
    const int by_pairs = BY_PAIRS(pixels, input_step);
    vec held[PIXELS_HELD * PARTS];
    two held_by_two[PIXELS_HELD * PARTS];
    if (by_pairs)
        EACH_PAIR(pixels, blocks) held_by_two[PAIR(pixels)] = load_two(gradient + PAIR_PLACE(gradient_block, LANES));
    else
        EACH_VECTOR(pixels, blocks) held[NUMBER(pixels)] = load(gradient + PLACE(gradient_block, LANES));
    for (int32_t k = kept.from; k < kept.to; k += 4) {
        // The last group may be short: what it lacks is computed of its first entry, and not written.
        const int32_t left = kept.to - k;
        const int32_t *offsets = kept.offsets + k;
        const number *a = settled(input + offsets[0]), *b = settled(input + offsets[left > 1 ? 1 : 0]);
        const number *c = settled(input + offsets[left > 2 ? 2 : 0]), *d = settled(input + offsets[left > 3 ? 3 : 0]);
        vec in_a = {0}, in_b = {0}, in_c = {0}, in_d = {0};
        if (by_pairs)
            EACH_PAIR(pixels, blocks) {
                const int64_t at = PAIR_PLACE(input_block, input_step);
                two g = held_by_two[PAIR(pixels)];
                in_a = add_dot(in_a, g, load_two(a + at));
                in_b = add_dot(in_b, g, load_two(b + at));
                in_c = add_dot(in_c, g, load_two(c + at));
                in_d = add_dot(in_d, g, load_two(d + at));
            }
        else
            EACH_VECTOR(pixels, blocks) {
                const int64_t at = PLACE(input_block, input_step);
                vec g = held[NUMBER(pixels)];
                in_a += g * load(a + at);
                in_b += g * load(b + at);
                in_c += g * load(c + at);
                in_d += g * load(d + at);
            }
        quad sums = sums_of_four(in_a, in_b, in_c, in_d);
        if (left >= 4)
            *(quad *)(result + k) += sums;
        else
            for (int i = 0; i < left; i++) result[k + i] += sums[i];
    }
}

#endif
