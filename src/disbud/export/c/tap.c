struct ${N}_convolution {
    int outputs, outputs_a_group, inputs_a_group;
    int in_height, in_width, out_height, out_width, kernel_height, kernel_width;
    int stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
};

/* The outputs whose input at one place of the kernel lies within the plane: how many, and where the first ones are. */
struct ${N}_reach {
    int rows, columns, from, to;
};

/* Along one axis: the first output whose input at that offset is not before the plane, and the end of those in it. */
static int ${N}_first(int offset, int stride)
{
    return offset < 0 ? (stride - 1 - offset) / stride : 0;
}

static int ${N}_end(int offset, int stride, int size, int outputs)
{
    const int last = size - 1 - offset;
    const int end = last < 0 ? 0 : last / stride + 1;
    return end < outputs ? end : outputs;
}

static void ${N}_reach_of(const struct ${N}_convolution *c, struct ${N}_reach *reach)
{
    int ky, kx;
    for (ky = 0; ky < c->kernel_height; ky++)
        for (kx = 0; kx < c->kernel_width; kx++, reach++) {
            const int dy = ky * c->dilation_y - c->padding_y, dx = kx * c->dilation_x - c->padding_x;
            const int y = ${N}_first(dy, c->stride_y), x = ${N}_first(dx, c->stride_x);
            reach->rows = ${N}_end(dy, c->stride_y, c->in_height, c->out_height) - y;
            reach->columns = ${N}_end(dx, c->stride_x, c->in_width, c->out_width) - x;
            if (reach->columns <= 0 || reach->rows <= 0)
                reach->rows = 0;
            reach->from = reach->rows ? (y * c->stride_y + dy) * c->in_width + x * c->stride_x + dx : 0;
            reach->to = reach->rows ? y * c->out_width + x : 0;
        }
}

/* Add to an output plane what a single weight makes of the plane that it reads. */
static void ${N}_add_tap(const struct ${N}_convolution *c, const struct ${N}_reach *reach, const float *in, float *out,
                         float weight)
{
    const int columns = reach->columns, step = c->stride_x;
    int x, y;
    for (y = 0; y < reach->rows; y++) {
        const float *from = in + reach->from + y * c->stride_y * c->in_width;
        float *to = out + reach->to + y * c->out_width;
        if (step == 1)
            for (x = 0; x < columns; x++)
                to[x] += weight * from[x];
        else
            for (x = 0; x < columns; x++)
                to[x] += weight * from[x * step];
    }
}
