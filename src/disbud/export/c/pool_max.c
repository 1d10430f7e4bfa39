static void ${N}_pool_max(const struct ${N}_pooling *p, const float *in, float *out)
{
    int plane, i, j, x, y;
    for (plane = 0; plane < p->planes; plane++, in += p->in_height * p->in_width)
        for (i = 0; i < p->out_height; i++) {
            const struct ${N}_window rows =
                ${N}_window_of(i, p->out_height, p->in_height, p->kernel_height, p->stride_y, p->padding_y, p->dilation_y);
            for (j = 0; j < p->out_width; j++) {
                const struct ${N}_window columns =
                    ${N}_window_of(j, p->out_width, p->in_width, p->kernel_width, p->stride_x, p->padding_x, p->dilation_x);
                float most = -HUGE_VALF;
                for (y = rows.first; y < rows.end; y += p->dilation_y)
                    for (x = columns.first; x < columns.end; x += p->dilation_x) {
                        const float v = in[y * p->in_width + x];
                        if (v > most || v != v) /* NaN stays, as in torch */
                            most = v;
                    }
                *out++ = most;
            }
        }
}
