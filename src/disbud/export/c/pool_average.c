static void ${N}_pool_average(const struct ${N}_pooling *p, const float *in, float *out)
{
    int plane, i, j, x, y;
    for (plane = 0; plane < p->planes; plane++, in += p->in_height * p->in_width)
        for (i = 0; i < p->out_height; i++) {
            const struct ${N}_window rows =
                ${N}_window_of(i, p->out_height, p->in_height, p->kernel_height, p->stride_y, p->padding_y, 1);
            for (j = 0; j < p->out_width; j++) {
                const struct ${N}_window columns =
                    ${N}_window_of(j, p->out_width, p->in_width, p->kernel_width, p->stride_x, p->padding_x, 1);
                int count = (rows.end - rows.first) * (columns.end - columns.first);
                float sum = 0.0f;
                for (y = rows.first; y < rows.end; y++)
                    for (x = columns.first; x < columns.end; x++)
                        sum += in[y * p->in_width + x];
                if (p->divisor)
                    count = p->divisor;
                else if (p->counts_padding)
                    count = rows.size * columns.size;
                *out++ = sum / (float)count;
            }
        }
}
