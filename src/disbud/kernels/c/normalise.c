// BatchNorm, activation and pooling of one channel after another, so that what is read twice is read from the cache.
//
// z = scale * x + shift, with scale = gamma / sqrt(variance + epsilon); Ioffe and Szegedy 2015, equations of section 3.
// With m pixels, dz the gradient of z and x' = (x - mean) / sqrt(variance + epsilon):
//     dbeta = sum dz     dgamma = sum dz x'     dx = scale (dz - dbeta / m - x' dgamma / m)
// and dx = scale dz where mean and variance are given.

#include "normalise.h"

#include <math.h>

#include "threads.h"

typedef struct {
    const struct map *in, *out;
    const struct normalisation *norm;
    const float *x, *y_gradient;
    double *mean, *variance;
    float *y, *x_gradient, *gamma_gradient, *beta_gradient;
} job;

// What is constant over one channel of one block.
typedef struct {
    float scale, shift, slope, mean;
    float constant, linear;  // of the gradient: dx = scale dz - constant - linear (x - mean)
    bits lanes[PARTS];
    vec sum[2], product[2];  // of dz, and of dz (x - mean); two of each, so that additions need not wait for each other
} channel;

static void read_lanes(channel *c, const struct normalisation *norm, int32_t block) {
    for (int part = 0; part < PARTS; part++)
        c->lanes[part] = (bits)(load(norm->lanes + (int64_t)block * LANES + part * WIDTH) != 0);
}

static double inverse_deviation(const job *job, int32_t number) {
    return 1 / sqrt(job->variance[number] + job->norm->epsilon);
}

static channel channel_of(const job *job, int32_t number) {
    const double scale = job->norm->gamma[number] * inverse_deviation(job, number), mean = job->mean[number];
    return (channel){.scale = (float)scale, .shift = (float)(job->norm->beta[number] - mean * scale),
                     .slope = job->norm->slope, .mean = (float)mean};
}

// ---- forward

static double sum_of_plane(const float *x, int64_t span) {
    vec sums[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * WIDTH <= span; i += 4 * WIDTH)
        UNROLL for (int k = 0; k < 4; k++) sums[k] += load(x + i + k * WIDTH);
    for (; i < span; i += WIDTH) sums[0] += load(x + i);
    return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Squares are summed of deviations from the mean, which loses nothing where the mean is far from zero. The halo lies
// at no deviation and is left out by rows; idle lanes by their mask.
static double squares_of_plane(const job *job, const float *x, const channel c) {
    const int64_t row = row_of(job->in), end = (int64_t)job->in->width * LANES;
    vec sums[PARTS] = {{0}}, more[PARTS] = {{0}};
    x += origin_of(job->in);
    for (int32_t r = 0; r < job->in->height; r++, x += row) {
        int64_t i = 0;
        for (; i + 2 * LANES <= end; i += 2 * LANES)
            UNROLL for (int part = 0; part < PARTS; part++) {
                vec one = load(x + i + part * WIDTH) - c.mean, two = load(x + i + LANES + part * WIDTH) - c.mean;
                sums[part] += one * one;
                more[part] += two * two;
            }
        for (; i < end; i += LANES)
            UNROLL for (int part = 0; part < PARTS; part++) {
                vec one = load(x + i + part * WIDTH) - c.mean;
                sums[part] += one * one;
            }
    }
    double sum = 0;
    for (int part = 0; part < PARTS; part++) sum += sum_of(keep(c.lanes[part], sums[part] + more[part]));
    return sum;
}

static void take_moments(const job *job, int32_t number) {
    double sum = 0, squares = 0;
    for (int32_t block = 0; block < job->in->blocks; block++)
        sum += sum_of_plane(job->x + plane_of(job->in, block, number), span_of(job->in));
    job->mean[number] = sum / job->norm->count;
    channel c = {.mean = (float)job->mean[number]};
    for (int32_t block = 0; block < job->in->blocks; block++) {
        read_lanes(&c, job->norm, block);
        squares += squares_of_plane(job, job->x + plane_of(job->in, block, number), c);
    }
    job->variance[number] = squares / job->norm->count;
}

INLINE vec affine(const channel *c, const float *x) { return c->scale * load(x) + c->shift; }

INLINE vec activated(const channel *c, vec z) {
    return c->slope == 0 ? keep(~(bits)(z <= 0), z) : choose((bits)(z <= 0), c->slope * z, z);
}

INLINE vec larger(vec a, vec b) { return choose((bits)(b > a) | (bits)(b != b), b, a); }

// The channel is handed over by value: behind a pointer it would be read again after every store.
INLINE void write_plane(const int pooled, const job *job, const channel c, const float *x, float *y) {
    const int64_t row = row_of(job->in), out_row = row_of(job->out), end = (int64_t)job->out->width * LANES;
    const int32_t height = job->out->height;
    clear_halo(job->out, y);
    x += origin_of(job->in);
    y += origin_of(job->out);
    for (int32_t r = 0; r < height; r++, y += out_row, x += pooled ? 2 * row : row)
        for (int64_t i = 0; i < end; i += LANES)
            UNROLL for (int part = 0; part < PARTS; part++) {
                const float *at = x + part * WIDTH + (pooled ? 2 * i : i);
                vec z = affine(&c, at);
                if (pooled)
                    z = larger(larger(larger(z, affine(&c, at + LANES)), affine(&c, at + row)),
                               affine(&c, at + row + LANES));
                store(y + i + part * WIDTH, keep(c.lanes[part], activated(&c, z)));
            }
}

static void forward_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    const int32_t number = (int32_t)unit;
    if (job->norm->of_batch) take_moments(job, number);
    channel c = channel_of(job, number);
    for (int32_t block = 0; block < job->in->blocks; block++) {
        read_lanes(&c, job->norm, block);
        const float *x = job->x + plane_of(job->in, block, number);
        float *y = job->y + plane_of(job->out, block, number);
        if (job->norm->pooled)
            write_plane(1, job, c, x, y);
        else
            write_plane(0, job, c, x, y);
    }
}

void disbud_normalise(const struct map *in, const struct map *out, const struct normalisation *norm, const float *x,
                      double *mean, double *variance, float *y) {
    const job job = {.in = in, .out = out, .norm = norm, .x = x, .mean = mean, .variance = variance, .y = y};
    run_units(forward_unit, &job, in->channels, norm->threads);
}

// ---- backward: the same walk twice, once to sum and once to write

enum pass { SUM, WRITE };

INLINE void take(const enum pass pass, channel *c, const int which, const int part, vec dz, const float *x, float *dx) {
    vec deviation = load(x) - c->mean;
    if (pass == SUM) {
        c->sum[which] += dz;
        c->product[which] += dz * deviation;
    } else {
        store(dx, keep(c->lanes[part], c->scale * dz - c->constant - c->linear * deviation));
    }
}

INLINE vec through_activation(const channel *c, vec z, vec gradient) {
    return choose((bits)(z <= 0), c->slope * gradient, gradient);
}

INLINE void walk_row(const enum pass pass, channel *c, int64_t width, const float *x, const float *dy, float *dx) {
    for (int64_t i = 0; i < width * LANES; i += LANES)
        UNROLL for (int part = 0; part < PARTS; part++) {
            const int64_t at = i + part * WIDTH;
            take(pass, c, part & 1, part, through_activation(c, affine(c, x + at), load(dy + at)), x + at, dx + at);
        }
}

// The gradient of a pooled pixel goes to the first of its four that holds the maximum, as torch's does.
INLINE void walk_pooled(const enum pass pass, channel *c, int64_t width, const float *x, const float *dy, float *dx,
                        int64_t row) {
    for (int64_t i = 0; i < width * LANES; i += LANES)
        UNROLL for (int part = 0; part < PARTS; part++) {
            const int64_t at = 2 * i + part * WIDTH, places[4] = {at, at + LANES, at + row, at + row + LANES};
            vec z[4], most;
            UNROLL for (int k = 0; k < 4; k++) z[k] = affine(c, x + places[k]);
            most = larger(larger(larger(z[0], z[1]), z[2]), z[3]);
            vec gradient = through_activation(c, most, load(dy + i + part * WIDTH));
            bits left = ~(bits){0};
            UNROLL for (int k = 0; k < 4; k++) {
                bits here = left;
                if (k < 3) here &= (bits)(z[k] == most);
                left &= ~here;
                take(pass, c, k & 1, part, keep(here, gradient), x + places[k], dx + places[k]);
            }
        }
}

// Pixels of an odd last row or column belong to no pooled pixel.
INLINE void walk_unpooled(const enum pass pass, channel *c, int64_t from, int64_t to, const float *x, float *dx) {
    for (int64_t i = from * LANES; pass == WRITE && i < to * LANES; i += WIDTH)
        take(pass, c, 0, (int)(i % LANES) / WIDTH, (vec){0}, x + i, dx + i);
}

// Returns the channel with the sums of this plane.
INLINE channel walk_plane(const enum pass pass, const int pooled, const job *job, channel c, const float *x,
                          const float *dy, float *dx) {
    const int64_t row = row_of(job->in), out_row = row_of(job->out);
    const int32_t in_height = job->in->height, in_width = job->in->width;
    const int32_t height = job->out->height, width = job->out->width;
    for (int i = 0; i < 2; i++) c.sum[i] = c.product[i] = (vec){0};
    if (pass == WRITE) clear_halo(job->in, dx);
    x += origin_of(job->in);
    dx += origin_of(job->in);
    dy += origin_of(job->out);
    for (int32_t r = 0; r < height; r++, dy += out_row) {
        const int64_t at = (pooled ? 2 : 1) * r * row;
        if (!pooled) {
            walk_row(pass, &c, width, x + at, dy, dx + at);
            continue;
        }
        walk_pooled(pass, &c, width, x + at, dy, dx + at, row);
        walk_unpooled(pass, &c, 2 * width, in_width, x + at, dx + at);
        walk_unpooled(pass, &c, 2 * width, in_width, x + at + row, dx + at + row);
    }
    for (int32_t r = 2 * height; pooled && r < in_height; r++)
        walk_unpooled(pass, &c, 0, in_width, x + r * row, dx + r * row);
    return c;
}

static channel walk(const enum pass pass, const job *job, const channel *c, int32_t block, int32_t number) {
    const int64_t plane = plane_of(job->in, block, number);
    const float *x = job->x + plane, *dy = job->y_gradient + plane_of(job->out, block, number);
    float *dx = job->x_gradient + plane;
    if (pass == SUM)
        return job->norm->pooled ? walk_plane(SUM, 1, job, *c, x, dy, dx) : walk_plane(SUM, 0, job, *c, x, dy, dx);
    return job->norm->pooled ? walk_plane(WRITE, 1, job, *c, x, dy, dx) : walk_plane(WRITE, 0, job, *c, x, dy, dx);
}

static void sum_channel(const job *job, channel *c, int32_t number) {
    const double inverse = inverse_deviation(job, number), count = job->norm->count;
    double sum = 0, product = 0;
    for (int32_t block = 0; block < job->in->blocks; block++) {
        const channel of_block = walk(SUM, job, c, block, number);
        sum += sum_of(of_block.sum[0] + of_block.sum[1]);
        product += sum_of(of_block.product[0] + of_block.product[1]);
    }
    job->beta_gradient[number] = (float)sum;
    job->gamma_gradient[number] = (float)(product * inverse);
    if (job->norm->of_batch) {
        const double scale = job->norm->gamma[number] * inverse;
        c->constant = (float)(scale * sum / count);
        c->linear = (float)(scale * inverse * inverse * product / count);
    }
}

static void backward_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    const int32_t number = (int32_t)unit;
    channel c = channel_of(job, number);
    sum_channel(job, &c, number);
    for (int32_t block = 0; block < job->in->blocks; block++) {
        read_lanes(&c, job->norm, block);
        walk(WRITE, job, &c, block, number);
    }
}

void disbud_normalise_backward(const struct map *in, const struct map *out, const struct normalisation *norm,
                               const float *x, const double *mean, const double *variance, const float *y_gradient,
                               float *x_gradient, float *gamma_gradient, float *beta_gradient) {
    const job job = {.in = in, .out = out, .norm = norm, .x = x, .mean = (double *)mean,
                     .variance = (double *)variance, .y_gradient = y_gradient, .x_gradient = x_gradient,
                     .gamma_gradient = gamma_gradient, .beta_gradient = beta_gradient};
    run_units(backward_unit, &job, in->channels, norm->threads);
}
