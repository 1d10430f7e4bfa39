// BatchNorm, activation and pooling of one channel after another, so that what is read twice is read from the cache.
//
// z = scale * x + shift, with scale = gamma / sqrt(variance + epsilon); Ioffe and Szegedy 2015, equations of section 3.
// With m pixels, dz the gradient of z and x' = (x - mean) / sqrt(variance + epsilon):
//     dbeta = sum dz     dgamma = sum dz x'     dx = scale (dz - dbeta / m - x' dgamma / m)
// and dx = scale dz where mean and variance are given. Where another activation is added to z, its gradient is dz.

#include "normalise.h"

#include <math.h>

#include "threads.h"

typedef struct {
    const struct map *in, *out;
    const struct normalisation *norm;
    const number *x, *added, *y_gradient;
    double *mean, *variance;
    number *y, *x_gradient, *added_gradient;
    float *gamma_gradient, *beta_gradient, *sums;
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
        c->lanes[part] = (bits)(load_floats(norm->lanes + (int64_t)block * LANES + part * WIDTH) != 0);
}

static double inverse_deviation(const job *job, int32_t position) {
    return 1 / sqrt(job->variance[position] + job->norm->epsilon);
}

static channel channel_of(const job *job, int32_t position) {
    const double scale = job->norm->gamma[position] * inverse_deviation(job, position), mean = job->mean[position];
    return (channel){.scale = (float)scale, .shift = (float)(job->norm->beta[position] - mean * scale),
                     .slope = job->norm->slope, .mean = (float)mean};
}

// ---- forward

static double sum_of_plane(const number *x, int64_t span) {
    vec sums[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * WIDTH <= span; i += 4 * WIDTH)
        UNROLL for (int k = 0; k < 4; k++) sums[k] += load(x + i + k * WIDTH);
    for (; i < span; i += WIDTH) sums[0] += load(x + i);
    return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

static double sum_of_channel(const job *job, int32_t position) {
    double sum = 0;
    for (int32_t block = 0; block < job->in->blocks; block++)
        sum += sum_of_plane(job->x + plane_of(job->in, block, position), span_of(job->in));
    return sum;
}

static void sum_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    job->sums[unit] = (float)sum_of_channel(job, (int32_t)unit);
}

void disbud_sum(const struct map *map, const number *x, int32_t threads, float *sums) {
    const job job = {.in = map, .x = x, .sums = sums};
    run_units(sum_unit, &job, map->channels, threads);
}

// Squares are summed of deviations from the mean, which loses nothing where the mean is far from zero. The halo lies
// at no deviation and is left out by rows; idle lanes by their mask.
static double squares_of_plane(const job *job, const number *x, const channel c) {
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

static void take_moments(const job *job, int32_t position) {
    double squares = 0;
    job->mean[position] = sum_of_channel(job, position) / job->norm->count;
    channel c = {.mean = (float)job->mean[position]};
    for (int32_t block = 0; block < job->in->blocks; block++) {
        read_lanes(&c, job->norm, block);
        squares += squares_of_plane(job, job->x + plane_of(job->in, block, position), c);
    }
    job->variance[position] = squares / job->norm->count;
}

INLINE vec affine(const channel *c, const number *x) { return c->scale * load(x) + c->shift; }

INLINE vec larger(vec a, vec b) { return choose((bits)(b > a) | (bits)(b != b), b, a); }

// The channel is handed over by value: behind a pointer it would be read again after every store.
INLINE void write_plane(const int pooled, const int summed, const job *job, const channel c, const number *x,
                        const number *added, number *y) {
    const int64_t row = row_of(job->in), out_row = row_of(job->out), end = (int64_t)job->out->width * LANES;
    const int32_t height = job->out->height;
    clear_halo(job->out, y);
    x += origin_of(job->in);
    y += origin_of(job->out);
    added += summed ? origin_of(job->out) : 0;
    for (int32_t r = 0; r < height; r++, y += out_row, added += summed ? out_row : 0, x += pooled ? 2 * row : row)
        for (int64_t i = 0; i < end; i += LANES)
            UNROLL for (int part = 0; part < PARTS; part++) {
                const number *at = x + part * WIDTH + (pooled ? 2 * i : i);
                vec z = affine(&c, at);
                if (pooled)
                    z = larger(larger(larger(z, affine(&c, at + LANES)), affine(&c, at + row)),
                               affine(&c, at + row + LANES));
                if (summed) z += load(added + i + part * WIDTH);
                store(y + i + part * WIDTH, keep(c.lanes[part], activated(c.slope, z)));
            }
}

static void forward_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    const int32_t position = (int32_t)unit;
    if (job->norm->of_batch) take_moments(job, position);
    channel c = channel_of(job, position);
    for (int32_t block = 0; block < job->in->blocks; block++) {
        read_lanes(&c, job->norm, block);
        const number *x = job->x + plane_of(job->in, block, position);
        const int64_t out = plane_of(job->out, block, position);
        if (job->norm->pooled)
            write_plane(1, 0, job, c, x, 0, job->y + out);
        else if (job->added)
            write_plane(0, 1, job, c, x, job->added + out, job->y + out);
        else
            write_plane(0, 0, job, c, x, 0, job->y + out);
    }
}

void disbud_normalise(const struct map *in, const struct map *out, const struct normalisation *norm, const number *x,
                      const number *added, double *mean, double *variance, number *y) {
    const job job = {.in = in, .out = out, .norm = norm, .x = x, .added = added, .mean = mean, .variance = variance,
                     .y = y};
    run_units(forward_unit, &job, in->channels, norm->threads);
}

// ---- backward: the same walk twice, once to sum and once to write

enum pass { SUM, WRITE };

INLINE void take(const enum pass pass, channel *c, const int which, const int part, vec dz, const number *x,
                 number *dx) {
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

INLINE void walk_row(const enum pass pass, channel *c, int64_t width, const number *x, const number *dy, number *dx) {
    for (int64_t i = 0; i < width * LANES; i += LANES)
        UNROLL for (int part = 0; part < PARTS; part++) {
            const int64_t at = i + part * WIDTH;
            take(pass, c, part & 1, part, through_activation(c, affine(c, x + at), load(dy + at)), x + at, dx + at);
        }
}

// The gradient of a pooled pixel goes to the first of its four that holds the maximum, as torch's does.
INLINE void walk_pooled(const enum pass pass, channel *c, int64_t width, const number *x, const number *dy, number *dx,
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
INLINE void walk_unpooled(const enum pass pass, channel *c, int64_t from, int64_t to, const number *x, number *dx) {
    for (int64_t i = from * LANES; pass == WRITE && i < to * LANES; i += WIDTH)
        take(pass, c, 0, (int)(i % LANES) / WIDTH, (vec){0}, x + i, dx + i);
}

// Where something was added, y tells what the activation did; the first walk writes dz, which the second reads.
INLINE channel walk_summed(const enum pass pass, const job *job, channel c, const number *x, const number *y,
                           const number *dy, number *dz, number *dx) {
    for (int i = 0; i < 2; i++) c.sum[i] = c.product[i] = (vec){0};
    clear_halo(pass == SUM ? job->out : job->in, pass == SUM ? dz : dx);
    for (int32_t r = 0; r < job->in->height; r++) {
        const int64_t in = origin_of(job->in) + r * row_of(job->in), out = origin_of(job->out) + r * row_of(job->out);
        for (int64_t i = 0; i < job->in->width * LANES; i += LANES)
            UNROLL for (int part = 0; part < PARTS; part++) {
                const int64_t from = in + i + part * WIDTH, to = out + i + part * WIDTH;
                vec gradient = pass == SUM ? through_activation(&c, load(y + to), load(dy + to)) : load(dz + to);
                if (pass == SUM) store(dz + to, gradient);
                take(pass, &c, part & 1, part, gradient, x + from, dx + from);
            }
    }
    return c;
}

// Returns the channel with the sums of this plane.
INLINE channel walk_plane(const enum pass pass, const int pooled, const job *job, channel c, const number *x,
                          const number *dy, number *dx) {
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

static channel walk(const enum pass pass, const job *job, const channel *c, int32_t block, int32_t position) {
    const int64_t plane = plane_of(job->in, block, position);
    const int64_t out = plane_of(job->out, block, position);
    const number *x = job->x + plane, *dy = job->y_gradient + out;
    number *dx = job->x_gradient + plane;
    if (job->added_gradient) {
        const number *y = job->y + out;
        number *dz = job->added_gradient + out;
        if (pass == SUM) return walk_summed(SUM, job, *c, x, y, dy, dz, dx);
        return walk_summed(WRITE, job, *c, x, y, dy, dz, dx);
    }
    if (pass == SUM)
        return job->norm->pooled ? walk_plane(SUM, 1, job, *c, x, dy, dx) : walk_plane(SUM, 0, job, *c, x, dy, dx);
    return job->norm->pooled ? walk_plane(WRITE, 1, job, *c, x, dy, dx) : walk_plane(WRITE, 0, job, *c, x, dy, dx);
}

static void sum_channel(const job *job, channel *c, int32_t position) {
    const double inverse = inverse_deviation(job, position), count = job->norm->count;
    double sum = 0, product = 0;
    for (int32_t block = 0; block < job->in->blocks; block++) {
        const channel of_block = walk(SUM, job, c, block, position);
        sum += sum_of(of_block.sum[0] + of_block.sum[1]);
        product += sum_of(of_block.product[0] + of_block.product[1]);
    }
    job->beta_gradient[position] = (float)sum;
    job->gamma_gradient[position] = (float)(product * inverse);
    if (job->norm->of_batch) {
        const double scale = job->norm->gamma[position] * inverse;
        c->constant = (float)(scale * sum / count);
        c->linear = (float)(scale * inverse * inverse * product / count);
    }
}

static void backward_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    const int32_t position = (int32_t)unit;
    channel c = channel_of(job, position);
    sum_channel(job, &c, position);
    for (int32_t block = 0; block < job->in->blocks; block++) {
        read_lanes(&c, job->norm, block);
        walk(WRITE, job, &c, block, position);
    }
}

void disbud_normalise_backward(const struct map *in, const struct map *out, const struct normalisation *norm,
                               const number *x, const double *mean, const double *variance, const number *y,
                               const number *y_gradient, number *x_gradient, number *added_gradient,
                               float *gamma_gradient, float *beta_gradient) {
    const job job = {.in = in, .out = out, .norm = norm, .x = x, .mean = (double *)mean,
                     .variance = (double *)variance, .y = (number *)y, .y_gradient = y_gradient,
                     .x_gradient = x_gradient, .added_gradient = added_gradient, .gamma_gradient = gamma_gradient,
                     .beta_gradient = beta_gradient};
    run_units(backward_unit, &job, in->channels, norm->threads);
}
