// BatchNorm with what usually follows it: a ReLU or a leaky one, and 2x2 max pooling.
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

// Writes y, and mean and variance (of the batch, biased) where they are the batch's own.
void disbud_normalise(const struct map *in, const struct map *out, const struct normalisation *norm, const float *x,
                      double *mean, double *variance, float *y);

// Writes the gradients of x, gamma and beta; the activation and the pooling are computed anew from x.
void disbud_normalise_backward(const struct map *in, const struct map *out, const struct normalisation *norm,
                               const float *x, const double *mean, const double *variance, const float *y_gradient,
                               float *x_gradient, float *gamma_gradient, float *beta_gradient);

#endif
