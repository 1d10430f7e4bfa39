// Maximum and average over windows, one channel of one block at a time.

#include "pool.h"

#include "threads.h"

typedef struct {
    const struct map *in, *out;
    const struct pooling *pool;
    const number *x, *y_gradient;
    number *y, *x_gradient;
} job;

// Where one output lies and which input pixels it takes.
typedef struct {
    const job *job;
    int32_t row, column;
    int64_t output;
} place;

#define EACH_PIXEL(place, at)                                                                                       \
    for (int32_t r = (place)->job->pool->rows.from[(place)->row]; r < (place)->job->pool->rows.to[(place)->row];    \
         r += (place)->job->pool->rows.step)                                                                        \
        for (int64_t c = (place)->job->pool->columns.from[(place)->column],                                         \
                     at = r * row_of((place)->job->in) + c * LANES;                                                 \
             c < (place)->job->pool->columns.to[(place)->column];                                                   \
             c += (place)->job->pool->columns.step, at += (place)->job->pool->columns.step * LANES)

// A NaN counts as the largest, as in torch.
INLINE bits exceeds(vec value, vec most) { return (bits)(value > most) | (bits)(value != value); }

INLINE vec largest(const place *place, const number *x, int part) {
    vec most = all(-__builtin_inff());
    EACH_PIXEL(place, at) {
        vec value = load(x + at + part * WIDTH);
        most = choose(exceeds(value, most), value, most);
    }
    return most;
}

INLINE float share_of(const place *place) {
    return place->job->pool->rows.share[place->row] * place->job->pool->columns.share[place->column];
}

INLINE void take_largest(const place *place, const number *x, number *y) {
    UNROLL for (int part = 0; part < PARTS; part++) store(y + part * WIDTH, largest(place, x, part));
}

INLINE void take_average(const place *place, const number *x, number *y) {
    UNROLL for (int part = 0; part < PARTS; part++) {
        vec sum = {0};
        EACH_PIXEL(place, at) sum += load(x + at + part * WIDTH);
        store(y + part * WIDTH, share_of(place) * sum);
    }
}

// The gradient goes to the first pixel that holds the maximum; of several NaNs, to the last, as in torch.
INLINE void give_to_largest(const place *place, const number *x, const number *dy, number *dx) {
    UNROLL for (int part = 0; part < PARTS; part++) {
        vec most = largest(place, x, part), gradient = load(dy + part * WIDTH);
        bits left = (bits)(most == most);
        EACH_PIXEL(place, at) {
            number *to = dx + at + part * WIDTH;
            bits here = left & (bits)(load(x + at + part * WIDTH) == most);
            left &= ~here;
            store(to, load(to) + keep(here, gradient));
        }
    }
}

INLINE void give_to_all(const place *place, const number *dy, number *dx) {
    UNROLL for (int part = 0; part < PARTS; part++) {
        vec gradient = share_of(place) * load(dy + part * WIDTH);
        EACH_PIXEL(place, at) {
            number *to = dx + at + part * WIDTH;
            store(to, load(to) + gradient);
        }
    }
}

#define EACH_OUTPUT(job, at)                                                        \
    for (place at = {.job = job}; at.row < (job)->out->height; at.row++)             \
        for (at.column = 0, at.output = origin_of((job)->out) + at.row * row_of((job)->out); \
             at.column < (job)->out->width; at.column++, at.output += LANES)

static void max_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    const number *x = job->x + unit * span_of(job->in) + origin_of(job->in);
    number *y = job->y + unit * span_of(job->out);
    clear_halo(job->out, y);
    EACH_OUTPUT(job, at) take_largest(&at, x, y + at.output);
}

static void average_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    const number *x = job->x + unit * span_of(job->in) + origin_of(job->in);
    number *y = job->y + unit * span_of(job->out);
    clear_halo(job->out, y);
    EACH_OUTPUT(job, at) take_average(&at, x, y + at.output);
}

static number *cleared(const job *job, int64_t unit) {
    number *dx = job->x_gradient + unit * span_of(job->in);
    memset(dx, 0, sizeof(number) * (size_t)span_of(job->in));
    return dx + origin_of(job->in);
}

static void max_backward_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    const number *x = job->x + unit * span_of(job->in) + origin_of(job->in);
    const number *dy = job->y_gradient + unit * span_of(job->out);
    number *dx = cleared(job, unit);
    EACH_OUTPUT(job, at) give_to_largest(&at, x, dy + at.output, dx);
}

static void average_backward_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    const number *dy = job->y_gradient + unit * span_of(job->out);
    number *dx = cleared(job, unit);
    EACH_OUTPUT(job, at) give_to_all(&at, dy + at.output, dx);
}

static void run(unit_of_work unit, const job *job) {
    run_units(unit, job, (int64_t)job->in->blocks * job->in->channels, job->pool->threads);
}

void disbud_max_pool(const struct map *in, const struct map *out, const struct pooling *pool, const number *x,
                     number *y) {
    run(max_unit, &(job){.in = in, .out = out, .pool = pool, .x = x, .y = y});
}

void disbud_max_pool_backward(const struct map *in, const struct map *out, const struct pooling *pool, const number *x,
                              const number *y_gradient, number *x_gradient) {
    run(max_backward_unit,
        &(job){.in = in, .out = out, .pool = pool, .x = x, .y_gradient = y_gradient, .x_gradient = x_gradient});
}

void disbud_average_pool(const struct map *in, const struct map *out, const struct pooling *pool, const number *x,
                         number *y) {
    run(average_unit, &(job){.in = in, .out = out, .pool = pool, .x = x, .y = y});
}

void disbud_average_pool_backward(const struct map *in, const struct map *out, const struct pooling *pool,
                                  const number *y_gradient, number *x_gradient) {
    run(average_backward_unit,
        &(job){.in = in, .out = out, .pool = pool, .y_gradient = y_gradient, .x_gradient = x_gradient});
}

void disbud_clear_halo(const struct map *map, number *data) {
    const int64_t planes = (int64_t)map->blocks * map->channels;
    for (int64_t plane = 0; plane < planes; plane++) clear_halo(map, data + plane * span_of(map));
}
