struct ${N}_pooling {
    int planes, in_height, in_width, out_height, out_width, kernel_height, kernel_width;
    int stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x, counts_padding, divisor;
};

struct ${N}_window {
    int first, end, size;
};

/* The entries that an output reads, and how many there are with the padding; a kernel of 0 cuts into equal parts. */
static struct ${N}_window ${N}_window_of(int output, int outputs, int size, int kernel, int stride, int padding,
                                         int dilation)
{
    struct ${N}_window w;
    if (kernel == 0) {
        w.first = output * size / outputs;
        w.end = ((output + 1) * size + outputs - 1) / outputs;
        w.size = w.end - w.first;
        return w;
    }
    w.first = output * stride - padding;
    w.end = w.first + dilation * (kernel - 1) + 1;
    w.size = (w.end < size + padding ? w.end : size + padding) - w.first;
    while (w.first < 0)
        w.first += dilation;
    w.end = w.end < size ? w.end : size;
    return w;
}
