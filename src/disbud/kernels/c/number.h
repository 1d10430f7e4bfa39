// The number that activations are stored as: float, or bfloat16, the upper half of one. Arithmetic is in floats.
//
// Included by simd.h, whose vectors it loads and stores.
#ifndef DISBUD_NUMBER_H
#define DISBUD_NUMBER_H

#ifdef STORE_BFLOAT16

typedef uint16_t number;
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH), aligned(2), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH), aligned(2), may_alias));

INLINE vec load(const number *from) {
    return (vec)(__builtin_convertvector(*(const halves *)from, words) << 16);
}

#ifdef __AVX512BF16__
#include <immintrin.h>

INLINE void store(number *to, vec value) { *(halves *)to = (halves)_mm512_cvtneps_pbh((__m512)value); }
#else
// To the nearest, to even where two are as near; a NaN keeps its upper half, and a bit that a NaN must have.
INLINE void store(number *to, vec value) {
    const words whole = (words)value, half = whole >> 16, is_nan = (words)(value != value);
    const words rounded = (whole + 0x7fff + (half & 1)) >> 16;
    *(halves *)to = __builtin_convertvector((rounded & ~is_nan) | ((half | 0x40) & is_nan), halves);
}
#endif

// Two vectors side by side, loaded as one: that is cheaper, but their numbers at even places are one vector then, and
// those at odd places the other.
typedef words two;
INLINE two load_two(const number *from) { return *(const two *)from; }
INLINE vec at_even(two both) { return (vec)(both << 16); }
INLINE vec at_odd(two both) { return (vec)(both & 0xffff0000u); }
INLINE void put_in_order(vec *pair) {
    const vec even = pair[0], odd = pair[1];
    pair[0] = LOWER_HALVES(even, odd);
    pair[1] = UPPER_HALVES(even, odd);
}

// sum + a b, element by element, and the two of a pair into one.
#ifdef __AVX512BF16__
INLINE vec add_dot(vec sum, two a, two b) { return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
#else
INLINE vec add_dot(vec sum, two a, two b) { return sum + at_even(a) * at_even(b) + at_odd(a) * at_odd(b); }
#endif

// Whether the vectors of a row of pixels lie side by side, two by two.
#define BY_PAIRS(pixels, step) (PARTS > 1 || ((pixels) > 1 && (step) == LANES))

#else

typedef float number;

INLINE vec load(const number *from) { return load_floats(from); }
INLINE void store(number *to, vec value) { *(vec *)to = value; }

// Floats need no pairs.
typedef vec two;
INLINE two load_two(const number *from) { return load(from); }
INLINE vec at_even(two both) { return both; }
INLINE vec at_odd(two both) { return both; }
INLINE void put_in_order(vec *pair) { (void)pair; }
INLINE vec add_dot(vec sum, two a, two b) { return sum + a * b; }
#define BY_PAIRS(pixels, step) 0

#endif
#endif
