// BatchNorm with what usually follows it: the sum with a shortcut, a ReLU or a leaky one, 2x2 max pooling.
#ifndef DISBUD_NORMALISE_H
#define DISBUD_NORMALISE_H

#include "map.h"

struct normalisation {
    const float *gamma, *beta;  // per channel
    const float *lanes;         // [blocks][LANES]: 1 where there is an image, else 0
    double count;               // pixels of a channel in the whole batch
    double epsilon;
    float slope;        // of the activation below zero: 1 is none, 0 is a ReLU
    int32_t pooled;     // whether the largest of every 2x2 pixels is taken
    int32_t of_batch;   // whether mean and variance are the batch's own, or given
    int32_t threads;
};

// The sum of each channel over all pixels of the batch.
void disbud_sum(const struct map *map, const number *x, int32_t threads, float *sums);

// Writes y, and mean and variance (of the batch, biased) where they are the batch's own. `added` lies as y does and is
// added before the activation; it may be null, and must be where the result is pooled.
void disbud_normalise(const struct map *in, const struct map *out, const struct normalisation *norm, const number *x,
                      const number *added, double *mean, double *variance, number *y);

// Writes the gradients of x, gamma and beta; the activation and the pooling are computed anew from x. Where something
// was added before an activation, they are read off y, and the gradient of what was added is written too; y and
// added_gradient are else null.
void disbud_normalise_backward(const struct map *in, const struct map *out, const struct normalisation *norm,
                               const number *x, const double *mean, const double *variance, const number *y,
                               const number *y_gradient, number *x_gradient, number *added_gradient,
                               float *gamma_gradient, float *beta_gradient);

#endif
