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

static const float zeros[LANES];

typedef struct {
    const struct gather *shape;
    const struct batch *batch;
    const float *values, *bias, *lanes;
    const float *input;
    float *output;         // of a sum
    const float *gradient;  // of a dot product
    float *result;
    int32_t group;   // blocks walked together
    int32_t chunks;  // parts the outputs are split into
} job;

// One tile's place: where its pixels start, and which of its outputs and rows are walked.
typedef struct {
    int64_t input, output;
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

INLINE void sum_strip(const int pixels, const int blocks, const int64_t input_step, const int64_t output_step,
                      const job *job, const strip *at) {
    const struct gather *shape = job->shape;
    float started[PIXELS_SUMMED * LANES];
    for (int32_t channels = 0; channels < shape->channel_blocks; channels++)
        for (int32_t output = at->from; output < at->to; output++) {
            entries kept = of_row(job, channels, output, at->row);
            if (channels && kept.from >= kept.to) continue;
            const float *start = channels ? 0 : zeros;
            if (!channels && job->bias) {
                const float *lanes = job->lanes + (int64_t)at->first_block * LANES;
                for (int i = 0; i < blocks * LANES; i++) started[i] = job->bias[output] * lanes[i];
                start = started;
            }
            sum_tile(pixels, blocks, kept, job->input + at->input, job->batch->input_block, input_step,
                     job->output + at->output + shape->places[output], job->batch->output_block, output_step, start,
                     start == started ? LANES : 0);
        }
}

INLINE void dot_strip(const int pixels, const int blocks, const int64_t input_step, const job *job, const strip *at) {
    const struct gather *shape = job->shape;
    for (int32_t channels = 0; channels < shape->channel_blocks; channels++)
        for (int32_t output = at->from; output < at->to; output++) {
            entries kept = of_row(job, channels, output, at->row);
            if (kept.from >= kept.to) continue;
            dot_tile(pixels, blocks, kept, job->input + at->input, job->batch->input_block, input_step,
                     job->gradient + at->output + shape->places[output], job->batch->output_block, job->result);
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
        for (int32_t block = first; block < last;) {
            const int32_t blocks = largest_power(last - block, widest / pixels);
            const strip at = {input + block * job->batch->input_block, output + block * job->batch->output_block,
                              row, block, from, to};
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
    const size_t size = sizeof(float) * LANES * (size_t)shape->halo;
    for (int32_t block = first; block < last; block++)
        for (int32_t output = from; output < to; output++) {
            float *plane = job->output + block * job->batch->output_block + shape->places[output];
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

// Each unit walks the whole batch for some outputs: every kept weight's gradient is summed by one thread, in one order.
static void dot_unit(const void *shared, int64_t unit) {
    const job *job = shared;
    int32_t from, to;
    outputs_of(job, unit, &from, &to);
    for (int32_t first = 0; first < job->batch->blocks; first += job->group)
        for (int32_t row = 0; row < job->shape->rows; row++) walk_row(dots, PIXELS_HELD, job, first, row, from, to);
}

static int32_t blocks_together(const struct gather *shape, int32_t widest) {
    return widest / largest_power(shape->columns, widest);
}

void disbud_gather(const struct gather *shape, const struct batch *batch, const float *values, const float *bias,
                   const float *lanes, const float *input, float *output) {
    job job = {.shape = shape, .batch = batch, .values = values, .bias = bias, .lanes = lanes, .input = input,
               .output = output, .group = blocks_together(shape, PIXELS_SUMMED), .chunks = 1};
    const int64_t groups = (batch->blocks + job.group - 1) / job.group, places = groups * shape->rows;
    if (places < 4 * batch->threads) job.chunks = (shape->outputs + OUTPUTS_A_UNIT - 1) / OUTPUTS_A_UNIT;
    run_units(sum_unit, &job, places * job.chunks, batch->threads);
}

void disbud_weight_gradient(const struct gather *shape, const struct batch *batch, const float *input,
                            const float *gradient, float *result) {
    job job = {.shape = shape, .batch = batch, .input = input, .gradient = gradient, .result = result,
               .group = blocks_together(shape, PIXELS_HELD), .chunks = 1};
    if (batch->threads > 1) {
        job.chunks = smaller(shape->outputs, 4 * batch->threads);
    }
    run_units(dot_unit, &job, job.chunks, batch->threads);
}

void disbud_pick(const float *from, const int32_t *positions, int64_t count, float *to) {
    for (int64_t i = 0; i < count; i++) to[i] = from[positions[i]];
}

void disbud_put(const float *from, const int32_t *positions, int64_t count, float *to) {
    for (int64_t i = 0; i < count; i++) to[positions[i]] = from[i];
}
