// The vector of one instruction set, and the few operations on it that C's operators do not spell.
//
// The arithmetic is written once over `vec`, the compiler's own vector type; the flags it is compiled with choose its
// width. A pixel is LANES images wide, PARTS vectors of WIDTH floats.
#ifndef DISBUD_SIMD_H
#define DISBUD_SIMD_H

#include <stdint.h>

#define LANES 16

// PIXELS_SUMMED: pixels whose sums stay in registers while the entries of an output are walked. PIXELS_HELD: pixels of
// the output gradient held in registers while dot products are taken, beside four sums. Both leave no register spilled.
#if defined(__AVX512F__)
#define WIDTH 16
#define PIXELS_SUMMED 8
#define PIXELS_HELD 8
#elif defined(__AVX2__)
#define WIDTH 8
#define PIXELS_SUMMED 4
#define PIXELS_HELD 4
#elif defined(__ARM_NEON)
#define WIDTH 4
#define PIXELS_SUMMED 4
#define PIXELS_HELD 4
#else
#define WIDTH 4
#define PIXELS_SUMMED 2
#define PIXELS_HELD 2
#endif
#define PARTS (LANES / WIDTH)

// Tensors of floats are only sure to be aligned as floats; aligned addresses lose nothing by it.
typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t bits __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

// The address, as a value the compiler computes once: it would otherwise spread the sum over every load of a tile.
INLINE const void *settled(const void *address) {
    __asm__("" : "+r"(address));
    return address;
}

INLINE vec load_floats(const float *from) { return *(const vec *)from; }
INLINE vec all(float value) { return value - (vec){0}; }

// Where `where` is all ones take `yes`, where it is zero take `no`.
INLINE vec choose(bits where, vec yes, vec no) { return (vec)((where & (bits)yes) | (~where & (bits)no)); }
INLINE vec keep(bits where, vec value) { return (vec)(where & (bits)value); }

// An activation of that slope below zero; a NaN stays one.
INLINE vec activated(float slope, vec z) {
    return slope == 0 ? keep(~(bits)(z <= 0), z) : choose((bits)(z <= 0), slope * z, z);
}

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (bits){__VA_ARGS__})
#endif

// Lower and upper halves of each four floats of a and b interleaved, by ones and by twos; of the whole, by ones.
#if WIDTH == 16
#define LOW_ONES(a, b) SHUFFLE(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define HIGH_ONES(a, b) SHUFFLE(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOW_TWOS(a, b) SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define HIGH_TWOS(a, b) SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define LOWER_HALVES(a, b) SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define UPPER_HALVES(a, b) SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif WIDTH == 8
#define LOW_ONES(a, b) SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define HIGH_ONES(a, b) SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOW_TWOS(a, b) SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define HIGH_TWOS(a, b) SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define LOWER_HALVES(a, b) SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define UPPER_HALVES(a, b) SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define LOW_ONES(a, b) SHUFFLE(a, b, 0, 4, 1, 5)
#define HIGH_ONES(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
#define LOW_TWOS(a, b) SHUFFLE(a, b, 0, 1, 4, 5)
#define HIGH_TWOS(a, b) SHUFFLE(a, b, 2, 3, 6, 7)
#define LOWER_HALVES(a, b) SHUFFLE(a, b, 0, 4, 1, 5)
#define UPPER_HALVES(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
#endif

#include "number.h"

typedef union {
    vec whole;
    quad quads[WIDTH / 4];
} quarters;

INLINE quad sum_of_quads(vec value) {
    quarters split = {value};
    quad sum = split.quads[0];
    for (int i = 1; i < WIDTH / 4; i++) sum += split.quads[i];
    return sum;
}

// The sums of the elements of a, b, c and d, as one vector of four.
INLINE quad sums_of_four(vec a, vec b, vec c, vec d) {
    vec ab = LOW_ONES(a, b) + HIGH_ONES(a, b);
    vec cd = LOW_ONES(c, d) + HIGH_ONES(c, d);
    return sum_of_quads(LOW_TWOS(ab, cd) + HIGH_TWOS(ab, cd));
}

INLINE double sum_of(vec value) {
    double sum = 0;
    for (int i = 0; i < WIDTH; i++) sum += value[i];
    return sum;
}

#endif
