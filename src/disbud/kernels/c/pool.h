// Pooling over windows of any size and place.
#ifndef DISBUD_POOL_H
#define DISBUD_POOL_H

#include "map.h"

// The pixels of one axis that each output takes: from, from + step, ... below to; never empty, never outside.
struct window {
    const int32_t *from, *to;
    const float *share;  // of an average: one over the number of pixels it divides by
    int32_t step;
};

struct pooling {
    struct window rows, columns;
    int32_t threads;
};

void disbud_max_pool(const struct map *in, const struct map *out, const struct pooling *pool, const number *x,
                     number *y);
void disbud_max_pool_backward(const struct map *in, const struct map *out, const struct pooling *pool, const number *x,
                              const number *y_gradient, number *x_gradient);
void disbud_average_pool(const struct map *in, const struct map *out, const struct pooling *pool, const number *x,
                         number *y);
void disbud_average_pool_backward(const struct map *in, const struct map *out, const struct pooling *pool,
                                  const number *y_gradient, number *x_gradient);

// Zero the halo of every channel of every block.
void disbud_clear_halo(const struct map *map, number *data);

#endif
