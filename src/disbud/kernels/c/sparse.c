// Sparse layers on blocked activations: the blocking and the threads around the arithmetic of tiles.h.
//
// A layer's output, and the gradient of its input, are both gathers: every output pixel sums kept weights times input
// pixels at fixed offsets from its own place. The gradient of the weights walks the same offsets with dot products.

#include "sparse.h"

#include <string.h>

#include "threads.h"
#include "tiles.h"

// Outputs are split so that a thread never waits long for the last; one chunk's entries are still a worthwhile walk.
#define OUTPUTS_A_UNIT 64

// Sums that go on in the next block of channels wait in the second cache, for this many outputs at a time.
#define OUTPUTS_WAITING 128

typedef struct {
    const struct gather *shape;
    const struct batch *batch;
    const struct finish *finish;
    const float *values;
    const number *input;
    number *output;          // of a sum
    const number *gradient;  // of a dot product
    float *result;
    int32_t group;   // blocks walked together
    int32_t chunks;  // parts the outputs are split into
    int32_t parts;   // of the pixels of a dot product
    const int32_t *bounds;  // of those parts, where they are of unequal size
} job;

// One tile's place: where its pixels start, how far off those of the next tile are (0 where there is none), and which
// of its outputs and rows are walked.
typedef struct {
    int64_t input, output, next_input, next_output;
    int32_t row, first_block, from, to;
} strip;

INLINE int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

static int32_t largest_power(int32_t most, int32_t limit) {
    int32_t power = 1;
    while (2 * power <= most && 2 * power <= limit) power *= 2;
    return power;
}

// The entries of one output in one block of input channels whose inputs lie inside the image, for that row of pixels.
INLINE entries of_row(const job *job, int32_t channels, int32_t output, int32_t row) {
    const struct gather *shape = job->shape;
    const int32_t *starts = shape->starts + ((int64_t)channels * shape->outputs + output) * (shape->bands + 1);
    return (entries){shape->offsets, job->values, starts[shape->first_band[row]], starts[shape->last_band[row]]};
}

INLINE ending ending_of(const job *job, const strip *at, int32_t output) {
    const struct finish *finish = job->finish;
    const int64_t place = at->output + job->shape->places[output];
    return (ending){.lanes = finish->bias ? finish->lanes + (int64_t)at->first_block * LANES : 0,
                    .bias = finish->bias ? finish->bias[output] : 0,
                    .slope = finish->slope,
                    .added = finish->added ? finish->added + place : 0};
}

#define LINE (64 / (int64_t)sizeof(number))

INLINE void fetch(const int pixels, const int blocks, const number *at, int64_t block_step, int64_t pixel_step) {
    UNROLL for (int block = 0; block < blocks; block++)
        for (int64_t i = 0; i < pixels * pixel_step; i += LINE) __builtin_prefetch(at + block * block_step + i, 0, 2);
}

// Ask for a share of what the next tile reads and this one has not: that of one output's part of the input channels.
// The tiles of a layer jump from channel to channel, which the processor does not foresee.
INLINE void fetch_inputs(const int pixels, const int blocks, const int64_t input_step, const job *job, const strip *at,
                         int32_t output) {
    const struct gather *shape = job->shape;
    const number *next = job->input + at->input + at->next_input + shape->reach;
    const int64_t end = (output + 1) * shape->source_count / shape->outputs;
    for (int64_t i = output * shape->source_count / shape->outputs; i < end; i++)
        fetch(pixels, blocks, next + shape->sources[i], job->batch->input_block, input_step);
}

// The outputs [from, to), of which there are no more than can wait.
INLINE void sum_outputs(const int pixels, const int blocks, const int64_t input_step, const int64_t output_step,
                        const job *job, const strip *at, int32_t from, int32_t to,
                        vec waiting[][PIXELS_SUMMED * PARTS]) {
    const struct gather *shape = job->shape;
    const int32_t final = shape->channel_blocks - 1;
    for (int32_t channels = 0; channels <= final; channels++)
        for (int32_t output = from; output < to; output++) {
            const entries kept = of_row(job, channels, output, at->row);
            if (channels && channels < final && kept.from >= kept.to) continue;
            vec sums[PIXELS_SUMMED * PARTS], *sums_so_far = waiting[output - from];
            EACH_VECTOR(pixels, blocks)
                sums[NUMBER(pixels)] = channels ? sums_so_far[NUMBER(pixels)] : (vec){0};
            add_entries(pixels, blocks, kept, job->input + at->input, job->batch->input_block, input_step, sums);
            if (channels < final) {
                EACH_VECTOR(pixels, blocks) sums_so_far[NUMBER(pixels)] = sums[NUMBER(pixels)];
                continue;
            }
            const ending end = ending_of(job, at, output);
            finish_sums(pixels, blocks, BY_PAIRS(pixels, input_step), &end, sums,
                        job->output + at->output + shape->places[output], job->batch->output_block, output_step);
            if (at->next_input) fetch_inputs(pixels, blocks, input_step, job, at, output);
        }
}

INLINE void sum_strip(const int pixels, const int blocks, const int64_t input_step, const int64_t output_step,
                      const job *job, const strip *at) {
    vec waiting[OUTPUTS_WAITING][PIXELS_SUMMED * PARTS];
    for (int32_t from = at->from; from < at->to; from += OUTPUTS_WAITING)
        sum_outputs(pixels, blocks, input_step, output_step, job, at, from, smaller(from + OUTPUTS_WAITING, at->to),
                    waiting);
}

INLINE void dot_strip(const int pixels, const int blocks, const int64_t input_step, const job *job, const strip *at) {
    const struct gather *shape = job->shape;
    for (int32_t channels = 0; channels < shape->channel_blocks; channels++)
        for (int32_t output = at->from; output < at->to; output++) {
            entries kept = of_row(job, channels, output, at->row);
            if (kept.from >= kept.to) continue;
            dot_tile(pixels, blocks, kept, job->input + at->input, job->batch->input_block, input_step,
                     job->gradient + at->output + shape->places[output], job->batch->output_block, job->result);
            if (!at->next_input || channels) continue;
            fetch_inputs(pixels, blocks, input_step, job, at, output);
            fetch(pixels, blocks, job->gradient + at->output + at->next_output + shape->places[output],
                  job->batch->output_block, LANES);
        }
}

// One function for each size of tile and kind of step: constants to the compiler, so that tiles stay in registers.
#define SUM_OF(pixels, blocks)                                                                                 \
    static void sum_##pixels##x##blocks(const job *job, const strip *at) {                                     \
        const int64_t in = job->shape->input_pixel, out = job->shape->output_pixel;                             \
        if (in == LANES && out == LANES) sum_strip(pixels, blocks, LANES, LANES, job, at);                      \
        else sum_strip(pixels, blocks, in, out, job, at);                                                      \
    }
#define DOT_OF(pixels, blocks)                                                                                 \
    static void dot_##pixels##x##blocks(const job *job, const strip *at) {                                     \
        if (job->shape->input_pixel == LANES) dot_strip(pixels, blocks, LANES, job, at);                        \
        else dot_strip(pixels, blocks, job->shape->input_pixel, job, at);                                      \
    }
typedef void (*walk)(const job *, const strip *);
#define MOST 5  // powers of two up to 16

#define TILES_OF_2(of) of(1, 1) of(2, 1) of(1, 2)
#define TILES_OF_4(of) TILES_OF_2(of) of(4, 1) of(2, 2) of(1, 4)
#define TILES_OF_8(of) TILES_OF_4(of) of(8, 1) of(4, 2) of(2, 4) of(1, 8)
#define TILES_OF_16(of) TILES_OF_8(of) of(16, 1) of(8, 2) of(4, 4) of(2, 8) of(1, 16)
#define TILES_UP_TO(most, of) TILES_UP_TO_EXPANDED(most, of)
#define TILES_UP_TO_EXPANDED(most, of) TILES_OF_##most(of)

TILES_UP_TO(PIXELS_SUMMED, SUM_OF)
TILES_UP_TO(PIXELS_HELD, DOT_OF)

#define POWER_1 0
#define POWER_2 1
#define POWER_4 2
#define POWER_8 3
#define POWER_16 4
#define SUM_ENTRY(pixels, blocks) [POWER_##pixels][POWER_##blocks] = sum_##pixels##x##blocks,
#define DOT_ENTRY(pixels, blocks) [POWER_##pixels][POWER_##blocks] = dot_##pixels##x##blocks,
static const walk sums[MOST][MOST] = {TILES_UP_TO(PIXELS_SUMMED, SUM_ENTRY)};
static const walk dots[MOST][MOST] = {TILES_UP_TO(PIXELS_HELD, DOT_ENTRY)};

INLINE int power_of(int32_t two_to_the) { return __builtin_ctz((unsigned)two_to_the); }

// Every tile of one row, for one group of blocks and the outputs [from, to).
static void walk_row(const walk table[MOST][MOST], int32_t widest, const job *job, int32_t first, int32_t row,
                     int32_t from, int32_t to) {
    const struct gather *shape = job->shape;
    const int32_t last = smaller(first + job->group, job->batch->blocks);
    for (int32_t column = 0; column < shape->columns;) {
        const int32_t pixels = largest_power(shape->columns - column, widest);
        const int64_t input = shape->input_origin + row * shape->input_row + column * shape->input_pixel;
        const int64_t output = shape->output_origin + row * shape->output_row + column * shape->output_pixel;
        const int down = column + pixels >= shape->columns, is_last = down && row + 1 >= shape->rows;
        const int64_t right = down ? -column : pixels;
        const int64_t next_input = is_last ? 0 : right * shape->input_pixel + down * shape->input_row;
        const int64_t next_output = is_last ? 0 : right * shape->output_pixel + down * shape->output_row;
        for (int32_t block = first; block < last;) {
            const int32_t blocks = largest_power(last - block, widest / pixels);
            const strip at = {input + block * job->batch->input_block, output + block * job->batch->output_block,
                              next_input, next_output, row, block, from, to};
            table[power_of(pixels)][power_of(blocks)](job, &at);
            block += blocks;
        }
        column += pixels;
    }
}

static void outputs_of(const job *job, int64_t chunk, int32_t *from, int32_t *to) {
    *from = (int32_t)(chunk * job->shape->outputs / job->chunks);
    *to = (int32_t)((chunk + 1) * job->shape->outputs / job->chunks);
}

// The zero columns after a row, and before the first, of outputs whose sums have just been stored.
static void clear_beside(const job *job, int32_t first, int32_t row, int32_t from, int32_t to) {
    const struct gather *shape = job->shape;
    const int32_t last = smaller(first + job->group, job->batch->blocks);
    const size_t size = sizeof(number) * LANES * (size_t)shape->halo;
    for (int32_t block = first; block < last; block++)
        for (int32_t output = from; output < to; output++) {
            number *plane = job->output + block * job->batch->output_block + shape->places[output];
            if (row == 0) memset(plane, 0, size);
            memset(plane + (row + 1) * shape->output_row, 0, size);
        }
}

static void sum_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    int32_t from, to;
    outputs_of(job, unit % job->chunks, &from, &to);
    unit /= job->chunks;
    const int32_t first = (int32_t)(unit / job->shape->rows) * job->group, row = (int32_t)(unit % job->shape->rows);
    walk_row(sums, PIXELS_SUMMED, job, first, row, from, to);
    if (job->shape->halo) clear_beside(job, first, row, from, to);
}

static int32_t entries_of(const struct gather *shape) {
    return shape->starts[(int64_t)shape->channel_blocks * shape->outputs * (shape->bands + 1) - 1];
}

// Part the outputs so that each chunk [bounds[i], bounds[i + 1]) has about as many entries.
static void part_outputs(const struct gather *shape, int32_t chunks, int32_t *bounds) {
    const int64_t total = entries_of(shape);
    int64_t seen = 0;
    int32_t chunk = 0;
    bounds[0] = 0;
    for (int32_t output = 0; output < shape->outputs; output++) {
        for (int32_t channels = 0; channels < shape->channel_blocks; channels++) {
            const int64_t row = (int64_t)channels * shape->outputs + output;
            const int32_t *starts = shape->starts + row * (shape->bands + 1);
            seen += starts[shape->bands] - starts[0];
        }
        while (chunk + 1 < chunks && seen * chunks >= (chunk + 1) * total) bounds[++chunk] = output + 1;
    }
    while (chunk < chunks) bounds[++chunk] = shape->outputs;
}

// Each unit walks a part of the pixels for some outputs, and every such sum is one thread's, in one order. How many
// parts there are does not depend on the threads, so that results do not.
static void dot_unit(const void *shared, int64_t unit) {
    const job *all = shared;
    const int64_t part = unit / all->chunks, chunk = unit % all->chunks;
    const int32_t from = all->bounds[chunk], to = all->bounds[chunk + 1], rows = all->shape->rows;
    job job = *all;
    job.result += part * entries_of(job.shape);
    const int64_t places = (job.batch->blocks + job.group - 1) / job.group * rows;
    for (int64_t place = part * places / job.parts; place < (part + 1) * places / job.parts; place++)
        walk_row(dots, PIXELS_HELD, &job, (int32_t)(place / rows) * job.group, (int32_t)(place % rows), from, to);
}

static int32_t blocks_together(const struct gather *shape, int32_t widest) {
    return widest / largest_power(shape->columns, widest);
}

void disbud_gather(const struct gather *shape, const struct batch *batch, const struct finish *finish,
                   const float *values, const number *input, number *output) {
    job job = {.shape = shape, .batch = batch, .finish = finish, .values = values, .input = input, .output = output,
               .group = blocks_together(shape, PIXELS_SUMMED), .chunks = 1};
    const int64_t groups = (batch->blocks + job.group - 1) / job.group, places = groups * shape->rows;
    if (places < 4 * batch->threads) job.chunks = (shape->outputs + OUTPUTS_A_UNIT - 1) / OUTPUTS_A_UNIT;
    run_units(sum_unit, &job, places * job.chunks, batch->threads);
}

void disbud_weight_gradient(const struct gather *shape, const struct batch *batch, int32_t parts, const number *input,
                            const number *gradient, float *result) {
    job job = {.shape = shape, .batch = batch, .input = input, .gradient = gradient, .result = result,
               .group = blocks_together(shape, PIXELS_HELD), .chunks = 1, .parts = parts};
    int32_t bounds[MOST_THREADS + 1];
    // Where the parts are too few for the threads the outputs are split; each chunk of them reads the input anew.
    if (parts < batch->threads) job.chunks = smaller(smaller(shape->outputs, batch->threads), MOST_THREADS);
    part_outputs(shape, job.chunks, bounds);
    job.bounds = bounds;
    const int64_t entries = entries_of(shape);
    if (!entries) return;
    memset(result, 0, sizeof(float) * (size_t)(parts * entries));
    run_units(dot_unit, &job, (int64_t)parts * job.chunks, batch->threads);
    for (int64_t k = entries; k < parts * entries; k++) result[k % entries] += result[k];
}

void disbud_pick(const float *from, const int32_t *positions, int64_t count, float *to) {
    for (int64_t i = 0; i < count; i++) to[i] = from[positions[i]];
}

void disbud_pick_scaled(const struct gather *shape, const float *from, const int32_t *positions, const float *scale,
                        float *to) {
    const int32_t *starts = shape->starts;
    for (int32_t channels = 0; channels < shape->channel_blocks; channels++)
        for (int32_t output = 0; output < shape->outputs; output++, starts += shape->bands + 1)
            for (int32_t i = starts[0]; i < starts[shape->bands]; i++) to[i] = from[positions[i]] * scale[output];
}

void disbud_put(const float *from, const int32_t *positions, int64_t count, float *to, int64_t size) {
    if (size) memset(to, 0, sizeof(float) * (size_t)size);
    for (int64_t i = 0; i < count; i++) to[positions[i]] = from[i];
}
